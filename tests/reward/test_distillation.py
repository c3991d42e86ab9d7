"""Old scores are held while new pairs are learnt: the loss, its targets, and whole trainings."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reward.data import Preference
from reward.evaluation import pair_scores
from reward.launch import Job, _work
from reward.losses import reward_loss, score_distillation_loss, with_targets
from reward.model import RewardModel, read_card, read_conditions
from reward.pairs import held_pairs, tokenise_pairs
from reward.settings import RewardTrainSettings
from reward.trainer import RewardTrainingError, RewardTrainingStopped, train_reward
from tests.hacked import Hacked, old_pairs
from tests.support import StopAfter

Maker = Callable[..., Preference]
Fit = Callable[..., Path]
TINY: dict[str, Any] = {
    "max_length": 64,
    "batch_tokens": 2048,
    "learning_rate": 1e-3,
    "final_learning_rate": 1e-3,
    "bf16": False,
    "log_every": 1,
    "heads": 3,
    "epochs": 5,
}


@pytest.fixture
def pattern(hacked: Hacked) -> list[Preference]:
    return hacked.pairs[:30]


@pytest.fixture
def patched(hacked: Hacked, tmp_path: Path) -> Fit:
    def run_it(
        train: list[Preference], name: str, base: Path | None = None, stop: Any = None, **more: Any
    ) -> Path:
        lists = {key: more.pop(key) for key in ("distil", "level") if key in more}
        return train_reward(
            RewardTrainSettings(**TINY | more),
            base=base or hacked.parent,
            train=train,
            out=tmp_path / name,
            conditions=read_conditions(hacked.parent),
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


@pytest.mark.parametrize("margin_weight", [0.0, 2.5])
def test_the_gradient_of_the_term_agrees_with_finite_differences(margin_weight: float) -> None:
    draw = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(2, 4, 3, generator=draw)
    targets = torch.randn(2, 4, 3, generator=draw)
    targets[:, 1] = math.nan

    def total(c: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        ranked = reward_loss(c, r)
        return with_targets(ranked, c, r, targets, 1.7, margin_weight).per_pair.sum()

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
    more = score_distillation_loss(chosen, rejected, targets, margin_weight=3.0)
    assert more.tolist() == pytest.approx([0.125 + 1.5 * 0.25, 2.0 + 1.5 * 4.0])
    with pytest.raises(ValueError, match="targets"):
        score_distillation_loss(chosen, rejected, targets[:, :1])
    ranked = reward_loss(chosen, rejected)
    targets[:, 0] = math.nan
    mixed = with_targets(ranked, chosen, rejected, targets, weight=3.0).per_pair
    assert mixed.tolist() == pytest.approx([float(ranked.per_pair[0]), 6.0])


def test_targets_are_the_parents_scores_of_each_head(hacked: Hacked) -> None:
    model, records = RewardModel.load(hacked.parent), hacked.held_out[:10]
    pairs, left_out = held_pairs(model, records)
    assert not left_out
    assert [pair.condition for pair in pairs] == [record.condition for record in records]
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
    patched: Fit, pattern: list[Preference], hacked: Hacked
) -> None:
    """On old pairs that no training saw; and without distillation they move further."""
    assert pair_scores(RewardModel.load(hacked.parent), pattern).right.mean() < 0.2
    held = patched(pattern, "held", distil=hacked.old[:60], condition_dropout=0.0)
    free = patched(pattern, "free", condition_dropout=0.0)
    for folder in (held, free):
        assert pair_scores(RewardModel.load(folder), pattern).right.mean() > 0.9
    assert moved(held, hacked.parent, hacked.held_out) < 0.6 * moved(
        free, hacked.parent, hacked.held_out
    )
    training = read_card(held).training
    assert (training["pairs"], training["held"]) == (90, 60)
    assert training["last_metrics"]["loss/distillation"] < 0.5
    assert read_card(free).training["held"] == 0
    assert "loss/distillation" not in read_card(free).training["last_metrics"]


def test_level_pairs_meet_at_the_score_without_the_pattern(
    patched: Fit, pattern: list[Preference], hacked: Hacked
) -> None:
    """The cure without over-correction: ranking goes on past zero, this does not."""
    before = pair_scores(RewardModel.load(hacked.parent), pattern)
    folder = patched([], "level", level=pattern, distil=hacked.old[:60])
    after = pair_scores(RewardModel.load(folder), pattern)
    assert before.margins.mean() < -1
    assert abs(after.margins.mean()) < 0.2 * abs(before.margins.mean())
    assert after.chosen.mean() == pytest.approx(before.chosen.mean(), abs=0.3)
    assert read_card(folder).training["last_metrics"]["loss/reward"] < 0.5


def test_distillation_continues_exactly(
    patched: Fit, pattern: list[Preference], hacked: Hacked, caplog: pytest.LogCaptureFixture
) -> None:
    pairs, old = pattern[:8], hacked.old[:12]
    whole = patched(pairs, "whole", distil=old, epochs=3)
    for name in ("cut", "other"):
        with pytest.raises(RewardTrainingStopped):
            patched(pairs, name, distil=old, epochs=3, stop=StopAfter(2))
    cut = patched(pairs, "cut", distil=old, epochs=3)
    assert not caplog.records
    for name, weight in weights(whole).items():
        assert torch.equal(weights(cut)[name], weight), name
    patched(pairs, "other", level=old, epochs=1)
    assert "starting anew" in caplog.text


def test_adapters_heads_and_prompt_weights_hold_too(
    patched: Fit, pattern: list[Preference], hacked: Hacked
) -> None:
    old, lora = hacked.old[:40], {"rank": 4, "alpha": 8}
    rate = {"learning_rate": 8e-3, "batch_tokens": 1024}
    folder = patched(pattern, "lora", distil=old, lora=lora, prompt_weighting="prompt", **rate)
    model, before = RewardModel.load(folder), RewardModel.load(hacked.parent)
    assert pair_scores(model, pattern).right.mean() > 0.8
    assert moved(folder, hacked.parent, old) < 0.5
    inputs = [pair.chosen_ids for pair in tokenise_pairs(model, old, 0)[0]]
    gap = (model.score_heads(inputs) - before.score_heads(inputs)).abs().mean(dim=0)
    assert float(gap.max()) < 0.5


def test_other_processes_are_given_the_held_pairs(
    patched: Fit, pattern: list[Preference], hacked: Hacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `train_reward` sends out is what a process calls `train_reward` with."""
    sent: list[Job] = []
    monkeypatch.setattr("reward.trainer.launch", lambda job, *_: sent.append(job))
    patched(pattern[:3], "rm", distil=hacked.old[:4], level=pattern[3:], launch={"workers": 2})
    called: dict[str, Any] = {}
    monkeypatch.setattr("os.environ", dict(os.environ))
    _work(0, sent[0], lambda settings, **arguments: called.update(arguments), port=0)  # type: ignore[arg-type,return-value]
    assert called["train"] == pattern[:3]
    assert called["distil"] == hacked.old[:4]
    assert called["level"] == pattern[3:]


def test_what_cannot_be_held_is_refused_or_counted(
    patched: Fit, pattern: list[Preference], model_folder: Path, make_pair: Maker
) -> None:
    with pytest.raises(RewardTrainingError, match="no scores to hold"):
        patched(pattern, "a", base=model_folder, distil=pattern)
    with pytest.raises(RewardTrainingError, match="no pair to train on"):
        patched([], "b", distil=old_pairs(2, 0))
    long = make_pair("word " * 200, "no", id="long")
    training = read_card(patched(pattern, "c", distil=[long], level=[long], epochs=1)).training
    assert (training["records"], training["pairs"], training["left_out"]) == (32, 30, 2)
