"""The policy on Ray and DeepSpeed: gradients, gates, state, export."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from actors.batch import Experience, Sequences, Totals
from actors.engines.lora import LoraSettings
from actors.engines.protocol import EngineSettings, NonFiniteError, OptimSettings
from actors.group import ActorFailed, Group
from actors.losses import Actions, PolicyLossSettings, policy_loss, pretrain_loss, token_shares
from actors.policy import Policy, PolicySettings
from actors.reference import Reference, ReferenceSettings
from tests.actors.probe import ProbePolicyWorker
from tests.actors.samples import alone, random_experience, random_text

# With so large an ε AdamW's first step is lr·g/ε: weights before − after are the gradient.
PLAIN = OptimSettings(lr=1e8, eps=1e8, grad_clip=1e9)
EXPERIENCE = random_experience([12, 30, 7, 21, 16], seed=3)
TEXT = random_text([25, 11, 18], seed=4)
TOTALS = Totals.of(EXPERIENCE.sequences, text=TEXT)


def settings(ranks: int = 1, **changes: Any) -> PolicySettings:
    engine = EngineSettings(
        zero_stage=changes.pop("zero_stage", 0),
        offload=changes.pop("offload", "none"),
        dtype=changes.pop("dtype", "float32"),
    )
    return PolicySettings(world_size=ranks, cpus=0.5, engine=engine, **changes)


def started(ranks: int) -> Policy:
    plain = settings(ranks)
    return Policy(Group("policy", ProbePolicyWorker, plain, arguments=(plain,)), plain)


@pytest.fixture(scope="module")
def policies(ray_session: object) -> Iterator[dict[int, Policy]]:
    both = {ranks: started(ranks) for ranks in (1, 2)}
    yield both
    for policy in both.values():
        policy.close()


def load(
    policy: Policy,
    folder: Path,
    optim: OptimSettings = PLAIN,
    state: Path | None = None,
    micro_batch_tokens: int = 64,
    **changes: Any,
) -> Policy:
    policy.settings = settings(policy.group.world_size, **changes)
    policy.group.call("configure", policy.settings)
    policy.load(folder, optim, 7, state, micro_batch_tokens).result()
    return policy


def weights(policy: Policy) -> dict[str, Tensor]:
    # Partitioned weights are gathered by all ranks together.
    every: list[dict[str, Tensor]] = policy.group.call("all_weights").result()
    return every[0]


def one_by_one(model: Any, batch: Sequences) -> Tensor:
    """Log-probs `[tokens]`, each sequence by itself, without padding."""
    ends = batch.cu_seqlens.tolist()
    rows = [
        alone(model, batch.tokens[a:b].tolist(), batch.is_action[a:b].tolist())
        for a, b in itertools.pairwise(ends)
    ]
    return torch.cat(rows)


def expected_gradients(
    folder: Path, ptx_coef: float = 0.5, loss: PolicyLossSettings | None = None
) -> dict[str, Tensor]:
    """By the plainest computation: one sequence at a time, no padding, plain autograd."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def logprobs(batch: Sequences) -> Tensor:
        return one_by_one(model, batch)[batch.is_action]

    at, loss = EXPERIENCE.sequences.is_action, loss or PolicyLossSettings()
    assert EXPERIENCE.behaviour_logprobs is not None
    assert EXPERIENCE.reference_logprobs is not None
    actions = Actions(
        logprobs(EXPERIENCE.sequences),
        EXPERIENCE.old_logprobs[at],
        EXPERIENCE.advantages[at],
        EXPERIENCE.behaviour_logprobs[at],
        EXPERIENCE.reference_logprobs[at],
    )
    ppo, _ = policy_loss(
        actions, token_shares(EXPERIENCE.sequences, TOTALS, loss.aggregation), loss
    )
    ptx, _ = pretrain_loss(logprobs(TEXT), denominator=TOTALS.pretrain_tokens)
    (ppo + ptx_coef * ptx).backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


CLIP = PolicyLossSettings()
DECOUPLED = PolicyLossSettings(name="decoupled", aggregation="sequence_mean", kl_coef=0.1)
TRUNCATED = PolicyLossSettings(name="truncated_is", kl_coef=0.1, kl="k3")


@pytest.mark.parametrize(
    ("ranks", "zero_stage", "micro_batch_tokens", "loss", "parts"),
    [
        (1, 0, 30, CLIP, 2),
        (1, 0, 200, DECOUPLED, 1),
        (1, 2, 64, CLIP, 2),
        (2, 0, 30, CLIP, 1),
        (2, 0, 200, TRUNCATED, 2),
        (2, 1, 64, CLIP, 2),
        (2, 2, 30, DECOUPLED, 2),
        (2, 3, 30, CLIP, 2),
    ],
)
def test_gradients_do_not_depend_on_ranks_sharding_micro_batches_or_parts(
    policies: dict[int, Policy],
    model_folder: Path,
    ranks: int,
    zero_stage: int,
    micro_batch_tokens: int,
    loss: PolicyLossSettings,
    parts: int,
) -> None:
    policy = load(
        policies[ranks],
        model_folder,
        micro_batch_tokens=micro_batch_tokens,
        zero_stage=zero_stage,
        loss=loss,
    )
    before = weights(policy)
    if parts > 1:
        # The last part may leave a rank with nothing.
        policy.accumulate(EXPERIENCE.select([4, 0, 1, 2]), TOTALS)
        metrics = policy.update(EXPERIENCE.select([3]), TEXT, TOTALS).result()
    else:
        metrics = policy.update(EXPERIENCE, TEXT, TOTALS).result()
    after = weights(policy)
    wanted = expected_gradients(model_folder, loss=loss)
    norm = torch.stack([g.norm() for g in wanted.values()]).norm().item()
    for name, gradient in wanted.items():
        error = (before[name] - after[name] - gradient).norm() / gradient.norm()
        assert error < 1e-4, name
    assert metrics["actor/grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert metrics["actor/lr"] == PLAIN.lr


@pytest.mark.parametrize(("ranks", "zero_stage"), [(1, 0), (2, 0), (2, 2)])
def test_kept_forward_passes_have_the_same_gradient(
    policies: dict[int, Policy], model_folder: Path, ranks: int, zero_stage: int
) -> None:
    policy = load(policies[ranks], model_folder, micro_batch_tokens=30, zero_stage=zero_stage)
    before = weights(policy)
    parts = [EXPERIENCE.select([4, 0, 1]), EXPERIENCE.select([2, 3])]
    for part in parts:
        policy.logprobs(part.sequences, keep=4).result()
    assert sum(policy.group.call("kept").result()) >= len(parts)
    policy.accumulate(parts[0], TOTALS).result()
    policy.update(parts[1], TEXT, TOTALS).result()
    assert policy.group.call("kept").result() == [0] * ranks
    after = weights(policy)
    for name, gradient in expected_gradients(model_folder).items():
        error = (before[name] - after[name] - gradient).norm() / gradient.norm()
        assert error < 1e-4, name


def test_ptx_coef_changes_the_gradient_and_needs_text(
    policies: dict[int, Policy], model_folder: Path
) -> None:
    norms = {}
    for coefficient in (0.0, 0.5, 2.0):
        policy = load(policies[1], model_folder, ptx_coef=coefficient)
        text = TEXT if coefficient else None
        norms[coefficient] = policy.update(EXPERIENCE, text, TOTALS).result()["actor/grad_norm"]
        wanted = expected_gradients(model_folder, coefficient).values()
        norm = torch.stack([gradient.norm() for gradient in wanted]).norm().item()
        assert norms[coefficient] == pytest.approx(norm, rel=1e-4)
    assert len(set(norms.values())) == 3
    with pytest.raises(ValueError, match=r"ptx_coef is 2\.0 but no pre-training batch"):
        policy.update(EXPERIENCE, None, TOTALS)
    policy = load(policies[1], model_folder, ptx_coef=0.0)
    with pytest.raises(ValueError, match=r"ptx_coef is 0\.0 but a batch was given"):
        policy.update(EXPERIENCE, TEXT, TOTALS)
    with pytest.raises(ValueError, match="less than what the batch itself holds"):
        policy.update(EXPERIENCE, None, Totals(1, 5))


def test_logprobs_are_those_of_the_model_and_the_ratio_starts_at_one(
    policies: dict[int, Policy], model_folder: Path, ray_session: object
) -> None:
    policy = load(policies[2], model_folder, OptimSettings(lr=1e-3))
    batch = EXPERIENCE.sequences
    found = policy.logprobs(batch).result()
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    assert torch.allclose(found.logprobs, one_by_one(model, batch), atol=1e-5)
    assert (found.entropy[batch.is_action] > 0).all()
    assert found.entropy[~batch.is_action].abs().sum() == 0
    # Ranks with unequal numbers of micro-batches go forward together where weights are partitioned.
    load(policy, model_folder, OptimSettings(lr=1e-3), zero_stage=3, micro_batch_tokens=31)
    shared = policy.logprobs(batch).result()
    assert torch.allclose(shared.logprobs, found.logprobs, atol=1e-5)
    # So they do for whole distributions, which one of them gives.
    whole = policy.distributions(batch).result()
    load(policy, model_folder, OptimSettings(lr=1e-3))
    assert whole.shape == (batch.actions, model.config.vocab_size)

    reference = Reference.start(ReferenceSettings(dtype="float32", cpus=0.5))
    reference.load(model_folder, 64).result()
    same = reference.logprobs(batch).result()
    assert torch.allclose(same.logprobs, found.logprobs, atol=1e-5)
    assert torch.allclose(reference.distributions(batch).result(), whole, atol=1e-4)
    reference.close()

    on_policy = replace(EXPERIENCE, old_logprobs=found.logprobs)
    metrics = policy.update(on_policy, TEXT, TOTALS).result()
    assert metrics["policy/ratio_avg"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["policy/clipfrac_avg"] == 0.0
    moved = policy.update(on_policy, TEXT, TOTALS).result()
    assert moved["policy/approxkl_avg"] > 1e-6


def with_advantage(value: float) -> Experience:
    """The experience with one advantage of sample-1 replaced."""
    advantages = EXPERIENCE.advantages.clone()
    advantages[EXPERIENCE.sequences.cu_seqlens[2] - 1] = value
    return replace(EXPERIENCE, advantages=advantages)


@pytest.mark.parametrize(("ranks", "zero_stage"), [(1, 0), (2, 0), (2, 2), (2, 3)])
def test_a_nan_is_named_before_weights_change_and_training_can_go_on(
    policies: dict[int, Policy], model_folder: Path, ranks: int, zero_stage: int
) -> None:
    policy = load(policies[ranks], model_folder, zero_stage=zero_stage)
    before = weights(policy)
    with pytest.raises(ActorFailed, match=r"non-finite loss in samples .*sample-1") as caught:
        policy.update(with_advantage(torch.nan), TEXT, TOTALS).result()
    assert isinstance(caught.value.cause, NonFiniteError)
    assert "sample-1" in caught.value.cause.sample_ids
    assert len(caught.value.cause.sample_ids) < len(EXPERIENCE.ids)
    # A finite loss whose gradient is beyond fp32: on policy, where no ratio is clipped.
    current = policy.logprobs(EXPERIENCE.sequences).result().logprobs
    extreme = replace(with_advantage(3e38), old_logprobs=current)
    with pytest.raises(ActorFailed, match=r"gradient norm is .*sample-1"):
        policy.update(extreme, TEXT, TOTALS).result()
    unchanged = weights(policy)
    assert all(torch.equal(before[name], unchanged[name]) for name in before)
    assert policy.update(EXPERIENCE, TEXT, TOTALS).result()["actor/grad_norm"] == pytest.approx(
        torch.stack([g.norm() for g in expected_gradients(model_folder).values()]).norm().item(),
        rel=1e-4,
    )


def test_bfloat16_is_near_float32(policies: dict[int, Policy], model_folder: Path) -> None:
    exact = load(policies[1], model_folder).logprobs(EXPERIENCE.sequences).result()
    policy = load(policies[1], model_folder, OptimSettings(lr=1e-3), dtype="bfloat16")
    found = policy.logprobs(EXPERIENCE.sequences).result()
    gap = (found.logprobs - exact.logprobs).abs()
    assert 0 < gap.max() < 0.5
    metrics = policy.update(replace(EXPERIENCE, old_logprobs=found.logprobs), TEXT, TOTALS).result()
    assert metrics["policy/ratio_avg"] == pytest.approx(1.0, abs=0.02)
    assert all(weight.dtype == torch.float32 for weight in weights(policy).values())


@pytest.mark.parametrize(("ranks", "zero_stage"), [(1, 0), (2, 1), (2, 2), (2, 3)])
def test_a_reloaded_policy_goes_on_bit_for_bit(
    policies: dict[int, Policy], model_folder: Path, tmp_path: Path, ranks: int, zero_stage: int
) -> None:
    optim = OptimSettings(lr=1e-2, weight_decay=0.1)
    policy = load(policies[ranks], model_folder, optim, zero_stage=zero_stage)
    policy.update(EXPERIENCE, TEXT, TOTALS).result()
    policy.group.call("random_number").result()
    policy.save_state(tmp_path).result()
    numbers = [policy.group.call("random_number").result()]
    steps = [policy.update(EXPERIENCE, TEXT, TOTALS).result()]
    ends = [weights(policy)]
    load(policy, model_folder, optim, tmp_path, zero_stage=zero_stage)
    numbers.append(policy.group.call("random_number").result())
    steps.append(policy.update(EXPERIENCE, TEXT, TOTALS).result())
    ends.append(weights(policy))
    assert numbers[0] == numbers[1]
    assert steps[0] == steps[1]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    with pytest.raises(ActorFailed, match="holds no training state"):
        load(policy, model_folder, optim, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("zero_stage", "offload"), [(1, "optimiser"), (2, "optimiser"), (3, "weights")]
)
def test_what_lives_in_host_memory_learns_the_same(
    policies: dict[int, Policy], model_folder: Path, tmp_path: Path, zero_stage: int, offload: str
) -> None:
    # As below: rounding must not decide.
    optim = OptimSettings(lr=1e-2, weight_decay=0.1, eps=1e-2)
    found = []
    for kept in ("none", offload):
        policy = load(policies[2], model_folder, optim, zero_stage=zero_stage, offload=kept)
        policy.update(EXPERIENCE, TEXT, TOTALS).result()
        policy.save_state(tmp_path / kept).result()
        policy.update(EXPERIENCE, TEXT, TOTALS).result()
        found.append(weights(policy))
    load(
        policies[2], model_folder, optim, tmp_path / "none", zero_stage=zero_stage, offload=offload
    )
    policies[2].update(EXPERIENCE, TEXT, TOTALS).result()
    found.append(weights(policies[2]))
    for other in found[1:]:
        gaps = {n: (found[0][n] - other[n]).abs().max().item() for n in other}
        assert max(gaps.values()) < 1e-6, gaps


def test_offload_needs_sharding() -> None:
    with pytest.raises(ValidationError, match="offload weights needs zero_stage 3 at least"):
        EngineSettings(zero_stage=2, offload="weights")


@pytest.mark.parametrize(("ranks", "zero_stage"), [(1, 0), (2, 2), (2, 3)])
def test_adapters_learn_over_a_frozen_base_that_is_the_reference(
    policies: dict[int, Policy], model_folder: Path, tmp_path: Path, ranks: int, zero_stage: int
) -> None:
    optim, lora = OptimSettings(lr=1e-2), LoraSettings(rank=4, alpha=8)
    policy = load(policies[ranks], model_folder, optim, zero_stage=zero_stage, lora=lora)
    batch, base = EXPERIENCE.sequences, load_file(model_folder / "model.safetensors")
    before = policy.logprobs(batch).result().logprobs
    for _ in range(3):
        policy.update(EXPERIENCE, TEXT, TOTALS).result()
    merged = weights(policy)
    assert merged.keys() == base.keys()
    changed = {name for name, weight in merged.items() if not torch.equal(weight, base[name])}
    assert changed == {name for name in base if "_proj" in name}
    # What is exported and pushed acts as the policy does; the base alone, as what it began with.
    policy.export(tmp_path / "out").result()
    stored = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(weight, merged[name]) for name, weight in stored.items())
    found = policy.logprobs(batch).result().logprobs
    for folder, theirs in ((tmp_path / "out", found), (model_folder, before)):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        assert torch.allclose(theirs, one_by_one(model, batch), atol=1e-5)
    assert (found - before).abs().max() > 1e-2
    assert torch.allclose(policy.base_logprobs(batch).result().logprobs, before, atol=1e-5)
    whole = policy.distributions(batch, base=True).result()
    of_taken = whole.gather(1, batch.tokens[batch.is_action][:, None])[:, 0]
    assert torch.allclose(of_taken, before[batch.is_action], atol=1e-5)
    # A state holds the adapters alone, and goes on bit for bit.
    policy.save_state(tmp_path / "state").result()
    files = sorted((tmp_path / "state").glob("state-*.safetensors"))
    assert all(".lora_" in name for file in files for name in load_file(file))
    policy.update(EXPERIENCE, TEXT, TOTALS).result()
    wanted = weights(policy)
    load(policy, model_folder, optim, tmp_path / "state", zero_stage=zero_stage, lora=lora)
    policy.update(EXPERIENCE, TEXT, TOTALS).result()
    assert all(torch.equal(weight, wanted[name]) for name, weight in weights(policy).items())


def test_adapters_in_the_last_layers_alone(policies: dict[int, Policy], model_folder: Path) -> None:
    optim, lora = OptimSettings(lr=1e-2), LoraSettings(rank=4, alpha=8, last_layers=1)
    policy = load(policies[1], model_folder, optim, lora=lora)
    base = load_file(model_folder / "model.safetensors")
    policy.update(EXPERIENCE, TEXT, TOTALS).result()
    changed = {n for n, weight in weights(policy).items() if not torch.equal(weight, base[n])}
    layers = AutoConfig.from_pretrained(model_folder).num_hidden_layers
    assert changed == {n for n in base if f"layers.{layers - 1}." in n and "_proj" in n}
    lora = LoraSettings(last_layers=layers + 1)
    with pytest.raises(ActorFailed, match=f"the model has {layers} layers"):
        load(policy, model_folder, optim, lora=lora)


def test_other_numbers_of_ranks_and_stages_go_on_from_a_state(
    policies: dict[int, Policy], model_folder: Path, tmp_path: Path
) -> None:
    # With a small ε a gradient that is nothing but rounding moves a weight by the whole rate.
    optim = OptimSettings(lr=1e-2, weight_decay=0.1, eps=1e-2)
    for ranks, zero_stage in ((2, 3), (1, 0), (2, 2)):
        saver = load(policies[ranks], model_folder, optim, zero_stage=zero_stage)
        saver.update(EXPERIENCE, TEXT, TOTALS).result()
        folder = tmp_path / f"{ranks} {zero_stage}"
        saver.save_state(folder).result()
        saver.update(EXPERIENCE, TEXT, TOTALS).result()
        wanted = weights(saver)
        for others, stage in ((1, 0), (2, 1), (2, 3), (1, 2)):
            other = load(policies[others], model_folder, optim, folder, zero_stage=stage)
            other.update(EXPERIENCE, TEXT, TOTALS).result()
            for name, weight in weights(other).items():
                assert torch.allclose(weight, wanted[name], atol=1e-5), (folder, stage, name)
    assert not [file for file in tmp_path.rglob("*") if file.suffix in (".pt", ".pkl", ".bin")]


def test_the_state_of_another_model_or_of_none_is_refused(
    policies: dict[int, Policy], model_folder: Path, tmp_path: Path
) -> None:
    policy = load(policies[1], model_folder)
    policy.save_state(tmp_path / "state").result()
    # Nothing was learnt: there are no moments yet, and there need not be.
    load(policies[1], model_folder, state=tmp_path / "state")
    config = AutoConfig.from_pretrained(model_folder)
    config.intermediate_size += 32
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "wider")
    with pytest.raises(ActorFailed, match=r"of another model: .*mlp.*\[64, 128\].*\[64, 160\]"):
        load(policies[1], tmp_path / "wider", state=tmp_path / "state")
    (tmp_path / "state/state.json").unlink()
    with pytest.raises(ActorFailed, match="holds no training state, or an unfinished one"):
        load(policies[1], model_folder, state=tmp_path / "state")


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_export_is_a_folder_that_transformers_load(
    policies: dict[int, Policy], model_folder: Path, tmp_path: Path, zero_stage: int
) -> None:
    policy = load(policies[2], model_folder, OptimSettings(lr=1e-2), zero_stage=zero_stage)
    policy.update(EXPERIENCE, TEXT, TOTALS).result()
    policy.export(tmp_path).result()
    stored, held = load_file(tmp_path / "model.safetensors"), weights(policy)
    assert set(stored) == set(held)
    assert all(torch.equal(stored[name], held[name]) for name in held)
    messages = [{"role": "user", "content": "Hello"}]
    texts = [
        AutoTokenizer.from_pretrained(folder).apply_chat_template(messages, tokenize=False)
        for folder in (model_folder, tmp_path)
    ]
    assert texts[0] == texts[1]


def test_tied_heads_are_one_weight(
    policies: dict[int, Policy], model_folder: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder, tie_word_embeddings=True)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path / "tied")
    policy = load(policies[1], tmp_path / "tied", OptimSettings(lr=1e-2))
    policy.update(EXPERIENCE, TEXT, TOTALS).result()
    held = weights(policy)
    assert "lm_head.weight" not in held
    policy.export(tmp_path / "out").result()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert torch.equal(again.lm_head.weight, held["model.embed_tokens.weight"])


def test_threads_are_what_the_settings_say(policies: dict[int, Policy]) -> None:
    assert policies[1].group.call("threads").result() == [(1, "1")]
