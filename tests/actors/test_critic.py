"""The critic on Ray and DeepSpeed: what it starts from, its loss, its state."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from actors.batch import Totals
from actors.critic import Critic, CriticSettings, value_model
from actors.engines.door import Door
from actors.engines.protocol import EngineSettings, OptimSettings
from actors.group import ActorFailed
from tests.actors.samples import random_experience

EXPERIENCE = random_experience([12, 30, 7, 21, 16], seed=5)
TOTALS = Totals.of(EXPERIENCE.sequences)


@pytest.fixture(scope="module")
def critic(ray_session: object) -> Iterator[Critic]:
    settings = CriticSettings(cpus=0.5, engine=EngineSettings(dtype="float32"))
    handle = Critic.start(settings)
    yield handle
    handle.close()


def test_values_start_at_zero_and_the_loss_ignores_micro_batches(
    critic: Critic, scoring_folder: Path
) -> None:
    at = EXPERIENCE.sequences.is_action
    assert EXPERIENCE.returns is not None
    returns = EXPERIENCE.returns[at]
    runs = []
    for tokens in (30, 64, 300):
        critic.load(scoring_folder, OptimSettings(lr=1e-2), 1, None, tokens).result()
        assert critic.values(EXPERIENCE.sequences).result().abs().sum() == 0
        runs.append([critic.update(EXPERIENCE, TOTALS).result() for _ in range(2)])
    first, second = runs[0]
    assert first["loss/value_avg"] == pytest.approx(0.5 * returns.square().mean().item(), rel=1e-5)
    assert first["critic/vf_explained_var"] == pytest.approx(0.0, abs=1e-6)
    assert second["loss/value_avg"] != first["loss/value_avg"]
    for other in runs[1:]:
        for step, expected in zip(other, runs[0], strict=True):
            assert step == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_first_gradient_is_that_of_a_plain_value_loss(
    critic: Critic, scoring_folder: Path
) -> None:
    model = value_model(scoring_folder)
    values = Door(model, model.value_head, autocast=False)(EXPERIENCE.sequences)
    assert EXPERIENCE.returns is not None
    returns = EXPERIENCE.returns[EXPERIENCE.sequences.is_action]
    (0.5 * (values - returns).square().mean()).backward()
    gradients = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    critic.load(scoring_folder, OptimSettings(lr=1e-2), 1).result()
    metrics = critic.update(EXPERIENCE, TOTALS).result()
    assert metrics["critic/grad_norm"] == pytest.approx(torch.stack(gradients).norm().item(), 1e-4)
    # A mini-batch that is half of a global one weighs half.
    critic.load(scoring_folder, OptimSettings(lr=1e-2), 1).result()
    halved = critic.update(EXPERIENCE, replace(TOTALS, actions=2 * TOTALS.actions)).result()
    assert halved["critic/grad_norm"] == pytest.approx(metrics["critic/grad_norm"] / 2, 1e-4)


def test_a_critic_that_reads_contexts_learns_as_if_they_stood_in_the_samples(
    critic: Critic, scoring_folder: Path
) -> None:
    contexts = ((3, 4, 5), (), (6,), (3, 4, 5), ())
    behind = replace(EXPERIENCE, contexts=contexts)
    longer, at = EXPERIENCE.sequences.behind(contexts)
    found = []
    for experience, read in ((behind, None), (behind.behind_contexts(), longer)):
        critic.load(scoring_folder, OptimSettings(lr=1e-2), 1, None, 64).result()
        steps = [critic.update(experience, TOTALS).result() for _ in range(2)]
        if read is None:
            values = critic.values(EXPERIENCE.sequences, contexts).result()
        else:
            values = critic.values(read).result()[at]
        found.append((steps, values))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    without = critic.values(EXPERIENCE.sequences).result()
    first, second = EXPERIENCE.sequences.cu_seqlens[1:3].tolist()
    assert not torch.allclose(without[:first], found[0][1][:first])
    assert torch.allclose(without[first:second], found[0][1][first:second], atol=1e-6)


def test_values_that_move_too_far_pay_the_larger_error(
    ray_session: object, scoring_folder: Path
) -> None:
    """Clipped, on two ranks that share the weights: the loss of plain PyTorch."""
    settings = CriticSettings(
        world_size=2,
        cpus=0.5,
        engine=EngineSettings(dtype="float32", zero_stage=3),
        value_clip=0.2,
    )
    critic = Critic.start(settings)
    critic.load(scoring_folder, OptimSettings(lr=1e-2), 1, None, 64).result()
    at = EXPERIENCE.sequences.is_action
    assert EXPERIENCE.returns is not None
    # Values are 0 so far: as if they had been 1 before this iteration's steps.
    stale = replace(EXPERIENCE, old_values=torch.ones(len(EXPERIENCE.sequences.tokens)))
    found = critic.update(stale, TOTALS).result()
    returns = EXPERIENCE.returns[at]
    errors = torch.maximum(returns.square(), (0.8 - returns).square())
    assert found["loss/value_avg"] == pytest.approx(0.5 * float(errors.mean()), rel=1e-5)
    assert not torch.equal(errors, returns.square())
    critic.close()


def test_it_learns_and_goes_on_bit_for_bit_after_a_reload(
    critic: Critic, scoring_folder: Path, tmp_path: Path
) -> None:
    optim = OptimSettings(lr=3e-3)
    critic.load(scoring_folder, optim, 1).result()
    losses = [critic.update(EXPERIENCE, TOTALS).result()["loss/value_avg"] for _ in range(8)]
    assert losses[-1] < losses[0]
    critic.save_state(tmp_path).result()
    expected = critic.update(EXPERIENCE, TOTALS).result()
    values = critic.values(EXPERIENCE.sequences).result()
    critic.load(scoring_folder, optim, 1, tmp_path).result()
    assert critic.update(EXPERIENCE, TOTALS).result() == expected
    assert torch.equal(critic.values(EXPERIENCE.sequences).result(), values)


def test_a_nan_return_names_its_sample(critic: Critic, scoring_folder: Path) -> None:
    critic.load(scoring_folder, OptimSettings(lr=1e-2), 1, None, 30).result()
    assert EXPERIENCE.returns is not None
    returns = EXPERIENCE.returns.clone()
    returns[EXPERIENCE.sequences.cu_seqlens[2] - 1] = torch.nan
    broken = replace(EXPERIENCE, returns=returns)
    with pytest.raises(ActorFailed, match=r"critic rank 0 failed: .* samples sample-1$"):
        critic.update(broken, TOTALS).result()
    with pytest.raises(ValueError, match="less than what the batch itself holds"):
        critic.update(EXPERIENCE, replace(TOTALS, actions=3))
