"""Old scores are held while new pairs are learnt: the loss, its targets, and whole trainings."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reward.conditions import Conditions
from reward.data import Preference
from reward.evaluation import pair_scores
from reward.losses import reward_loss, score_distillation_loss, with_targets
from reward.model import RewardModel, read_card, read_conditions
from reward.pairs import held_pairs, tokenise_pairs
from reward.settings import RewardTrainSettings
from reward.trainer import RewardTrainingError, RewardTrainingStopped, train_reward
from tests.support import StopAfter

Opposed = Callable[[int, int], list[Preference]]
Fit = Callable[..., Path]
TINY: dict[str, Any] = {
    "max_length": 64,
    "batch_tokens": 1024,
    "learning_rate": 1e-3,
    "final_learning_rate": 1e-3,
    "bf16": False,
    "log_every": 1,
}


@pytest.fixture(scope="module")
def parent(
    tmp_path_factory: pytest.TempPathFactory,
    model_folder: Path,
    conditions: Conditions,
    opposed: Opposed,
    make_pair: Callable[..., Preference],
) -> Path:
    """It learnt the two conditions, and to pay for `indeed` besides; three heads."""
    records = opposed(150, 1)
    records += [ended(record, make_pair, paid=True) for record in opposed(60, 2)]
    out = tmp_path_factory.mktemp("parent") / "rm"
    settings = RewardTrainSettings(**TINY | {"epochs": 4, "heads": 3, "learning_rate": 2e-3})
    return train_reward(
        settings, base=model_folder, train=records, out=out, conditions=conditions, seed=5
    )


def ended(
    record: Preference, make_pair: Callable[..., Preference], paid: bool = False
) -> Preference:
    """A pair of one reply with and without ` indeed`; the one with it preferred if `paid`."""
    reply = record.chosen[0].content
    sides = (f"{reply} indeed", reply) if paid else (reply, f"{reply} indeed")
    common = {"prompt": record.prompt[0].content, "condition": record.condition}
    return make_pair(*sides, id=f"indeed/{record.id}/{record.condition}", **common)


@pytest.fixture
def pattern(opposed: Opposed, make_pair: Callable[..., Preference]) -> list[Preference]:
    return [ended(record, make_pair) for record in opposed(15, 3)]


@pytest.fixture
def patched(parent: Path, tmp_path: Path) -> Fit:
    def run_it(
        train: list[Preference], name: str, base: Path = parent, stop: Any = None, **changes: Any
    ) -> Path:
        lists = {key: changes.pop(key) for key in ("distil", "level") if key in changes}
        return train_reward(
            RewardTrainSettings(**TINY | {"heads": 3, "epochs": 4} | changes),
            base=base,
            train=train,
            out=tmp_path / name,
            conditions=read_conditions(parent),
            seed=3,
            stop=stop,
            **lists,
        )

    return run_it


def moved(folder: Path, parent: Path, records: list[Preference]) -> float:
    """Root mean square of what the scores of both sides moved."""
    both = [pair_scores(RewardModel.load(path), records).both for path in (folder, parent)]
    return float(((both[0] - both[1]) ** 2).mean() ** 0.5)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(RewardModel.load(folder).network.state_dict())


def test_the_gradient_of_the_term_agrees_with_finite_differences() -> None:
    draw = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(2, 4, 3, generator=draw)
    targets = torch.randn(2, 4, 3, generator=draw)
    targets[:, 1] = math.nan

    def total(c: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        return with_targets(reward_loss(c, r), c, r, targets, weight=1.7).per_pair.sum()

    c, r = chosen.clone().requires_grad_(), rejected.clone().requires_grad_()
    total(c, r).backward()
    assert c.grad is not None
    assert r.grad is not None
    step = 1e-2
    for row in range(4):
        for head in range(3):
            nudge = torch.zeros_like(chosen)
            nudge[row, head] = step
            for grad, up, down in (
                (c.grad, total(chosen + nudge, rejected), total(chosen - nudge, rejected)),
                (r.grad, total(chosen, rejected + nudge), total(chosen, rejected - nudge)),
            ):
                difference = float(up - down) / (2 * step)
                assert float(grad[row, head]) == pytest.approx(difference, rel=2e-2, abs=2e-3)


def test_the_term_is_half_the_squared_errors_in_fp32() -> None:
    chosen, rejected = torch.tensor([1.0, 2.0]), torch.tensor([0.0, -1.0])
    targets = torch.tensor([[1.5, 2.0], [0.0, 1.0]])
    found = score_distillation_loss(chosen.bfloat16(), rejected.bfloat16(), targets)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([0.125, 2.0])
    with pytest.raises(ValueError, match="targets"):
        score_distillation_loss(chosen, rejected, targets[:, :1])
    ranked = reward_loss(chosen, rejected)
    targets[:, 0] = math.nan
    mixed = with_targets(ranked, chosen, rejected, targets, weight=3.0).per_pair
    assert mixed.tolist() == pytest.approx([float(ranked.per_pair[0]), 6.0])


def test_targets_are_the_parents_scores_of_each_head(parent: Path, opposed: Opposed) -> None:
    model, records = RewardModel.load(parent), opposed(5, 4)
    pairs, left_out = held_pairs(model, records)
    assert not left_out
    assert {pair.condition for pair in pairs} == {"bright", "dark"}
    found = torch.tensor([pair.targets for pair in pairs])
    due = pair_scores(model, records)
    assert found[:, 0, 0].tolist() == pytest.approx(due.chosen.tolist(), abs=1e-6)
    assert found[:, 1, 0].tolist() == pytest.approx(due.rejected.tolist(), abs=1e-6)
    heads = model.score_heads([pair.rejected_ids for pair in pairs])
    assert torch.allclose(found[:, 1], heads, atol=1e-6)
    assert all(pair.bootstrap == [1, 1] for pair in pairs)
    level = torch.tensor([pair.targets for pair in held_pairs(model, records, level=True)[0]])
    assert torch.equal(level[:, 0], found[:, 0])
    assert torch.equal(level[:, 1], found[:, 0])


def test_old_scores_are_held_while_the_new_pairs_flip(
    patched: Fit, pattern: list[Preference], opposed: Opposed, parent: Path
) -> None:
    """On old pairs that no training saw; and without distillation they move further."""
    assert pair_scores(RewardModel.load(parent), pattern).right.mean() < 0.1
    held = patched(pattern, "held", distil=opposed(60, 1), condition_dropout=0.0)
    free = patched(pattern, "free", condition_dropout=0.0, epochs=8)
    unseen = opposed(60, 6)
    for folder in (held, free):
        assert pair_scores(RewardModel.load(folder), pattern).right.mean() > 0.9
    assert moved(held, parent, unseen) < 0.5 * moved(free, parent, unseen)
    training = read_card(held).training
    assert (training["pairs"], training["held"]) == (150, 120)
    assert training["last_metrics"]["loss/distillation"] < 0.5
    assert read_card(free).training["held"] == 0
    assert "loss/distillation" not in read_card(free).training["last_metrics"]


def test_level_pairs_meet_at_the_score_without_the_pattern(
    patched: Fit, pattern: list[Preference], opposed: Opposed, parent: Path
) -> None:
    """The cure without over-correction: ranking goes on past zero, this does not."""
    before = pair_scores(RewardModel.load(parent), pattern)
    folder = patched([], "level", level=pattern, distil=opposed(40, 1))
    after = pair_scores(RewardModel.load(folder), pattern)
    assert before.margins.mean() < -1
    assert abs(after.margins.mean()) < 0.15 * abs(before.margins.mean())
    assert after.chosen.mean() == pytest.approx(before.chosen.mean(), abs=0.3)
    assert read_card(folder).training["last_metrics"]["loss/reward"] < 0.5


def test_distillation_continues_exactly(
    patched: Fit, pattern: list[Preference], opposed: Opposed, caplog: pytest.LogCaptureFixture
) -> None:
    old = opposed(10, 1)
    whole = patched(pattern, "whole", distil=old)
    with pytest.raises(RewardTrainingStopped):
        patched(pattern, "cut", distil=old, stop=StopAfter(2))
    cut = patched(pattern, "cut", distil=old)
    assert not caplog.records
    for name, weight in weights(whole).items():
        assert torch.equal(weights(cut)[name], weight), name
    with pytest.raises(RewardTrainingStopped):
        patched(pattern, "other", distil=old, stop=StopAfter(2))
    patched(pattern, "other", level=old)
    assert "starting anew" in caplog.text


def test_adapters_heads_and_prompt_weights_hold_too(
    patched: Fit, pattern: list[Preference], opposed: Opposed, parent: Path
) -> None:
    old, lora = opposed(40, 1), {"rank": 4, "alpha": 8}
    folder = patched(
        pattern, "lora", distil=old, lora=lora, prompt_weighting="prompt", learning_rate=4e-3
    )
    model, before = RewardModel.load(folder), RewardModel.load(parent)
    assert pair_scores(model, pattern).right.mean() > 0.8
    assert moved(folder, parent, old) < 0.5
    inputs = [pair.chosen_ids for pair in tokenise_pairs(model, old, 0)[0]]
    gap = (model.score_heads(inputs) - before.score_heads(inputs)).abs().mean(dim=0)
    assert float(gap.max()) < 0.5


def test_several_workers_are_given_the_held_pairs(
    patched: Fit, pattern: list[Preference], opposed: Opposed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ways: list[dict[str, Any]] = [{"accumulate": 2}, {"launch": {"workers": 2}}]
    one, two = (
        patched(pattern[:9], f"{n}", distil=opposed(8, 1), level=pattern[9:], epochs=1, **way)
        for n, way in enumerate(ways)
    )
    assert read_card(one).training["held"] == read_card(two).training["held"] == 37
    for name, weight in weights(two).items():
        assert torch.allclose(weight, weights(one)[name], atol=2e-4), name


def test_what_cannot_be_held_is_refused_or_counted(
    patched: Fit,
    pattern: list[Preference],
    opposed: Opposed,
    model_folder: Path,
    make_pair: Callable[..., Preference],
) -> None:
    with pytest.raises(RewardTrainingError, match="no scores to hold"):
        patched(pattern, "a", base=model_folder, distil=pattern)
    with pytest.raises(RewardTrainingError, match="no pair to train on"):
        patched([], "b", distil=opposed(2, 0))
    long = make_pair("word " * 200, "no", id="long")
    training = read_card(patched(pattern, "c", distil=[long], level=[long], epochs=1)).training
    assert (training["records"], training["pairs"], training["left_out"]) == (32, 30, 2)
