from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cool_rlhf.hacks.patch import PatchError, PatchSettings, patch_reward_model
from cool_rlhf.hacks.patch.recalibration import recalibrated
from cool_rlhf.hacks.patch.replay import draw_replay, ids
from cool_rlhf.hacks.patch.settings import recipe
from cool_rlhf.hacks.patch.split import split_pairs, with_enough
from reward.conditions import Conditions
from reward.data import Preference
from reward.evaluation import pair_scores
from reward.evaluation.scoring import EvaluationError
from reward.model import RewardCard, RewardModel, read_card
from tests.hacked import TRAIN, Hacked, old_pairs, pattern_pairs
from tests.reward.conftest import pair


def patched(hacked: Hacked, out: Path, pairs: int = 90, **changes: Any) -> tuple[RewardModel, Any]:
    train = TRAIN | {"epochs": 6} | changes.pop("train", {})
    settings = PatchSettings(**{"train": train, "replay_pairs": 2} | changes)
    result = patch_reward_model(hacked.parent, hacked.pairs[:pairs], hacked.old, out, settings)
    return RewardModel.load(out), result


def paid(model: RewardModel, pairs: list[Preference]) -> float:
    """Mean score for the pattern, in standard deviations of the scores without it."""
    scores = pair_scores(model, pairs)
    return float(-scores.margins.mean() / scores.chosen.std())


def test_a_levelled_hack_pays_nothing_and_old_pairs_stay(hacked: Hacked, tmp_path: Path) -> None:
    before = RewardModel.load(hacked.parent)
    after, result = patched(hacked, tmp_path / "rm")
    assert paid(before, hacked.pairs) > 0.8
    assert abs(paid(after, list(result.held_out))) < 0.2
    old = [pair_scores(model, hacked.held_out) for model in (before, after)]
    assert old[1].right.mean() >= old[0].right.mean() - 0.02
    assert np.corrcoef(old[0].both, old[1].both)[0, 1] > 0.99
    card = read_card(tmp_path / "rm")
    assert card.parents["base"]
    assert (len(result.training), len(result.held_out), len(result.replay)) == (45, 45, 90)
    assert (card.training["pairs"], card.training["held"]) == (135, 135)
    assert card.heads == 3


def test_a_ranked_hack_is_turned_round(hacked: Hacked, tmp_path: Path) -> None:
    """The report's objective has no reason to stop at zero."""
    after, result = patched(hacked, tmp_path / "rm", 40, objective="rank")
    assert paid(after, list(result.held_out)) < -0.3
    assert read_card(tmp_path / "rm").training["held"] == 40


@pytest.mark.parametrize("replay", ["none", "bradley_terry", "focal"])
def test_replays_of_the_study(hacked: Hacked, tmp_path: Path, replay: str) -> None:
    _, result = patched(hacked, tmp_path / "rm", 20, replay=replay, train={"epochs": 1})
    training = read_card(tmp_path / "rm").training
    ranked = training["pairs"] - training["held"]
    assert ranked == len(result.replay) == (0 if replay == "none" else 20)
    if replay != "none":
        assert training["settings"]["loss"]["ranking"] == replay


def test_replay_is_balanced_over_conditions_and_drawn_from_the_seed() -> None:
    old = [*old_pairs(30, 1), *(pair("a", f"b {n}", condition="rare") for n in range(4))]
    drawn = draw_replay(old, 24, seed=0)
    count = [sum(p.condition == name for p in drawn) for name in ("bright", "dark", "rare")]
    assert count == [10, 10, 4]
    assert drawn == draw_replay(old, 24, seed=0) != draw_replay(old, 24, seed=1)
    assert len(draw_replay(old, 999, seed=0)) == len(old)
    assert draw_replay([], 5, seed=0) == []
    assert ids(old[-2:], old) == ["record 63", "record 64"]
    assert ids(old[:1], old) == ["1/0"]


def test_no_prompt_is_learnt_and_held_out() -> None:
    """Two hacks in edits of the same prompts; the second has some of its own too."""
    first = pattern_pairs(30, 0, "indeed")
    shared = [replace(p, source="hack:truly") for p in first[:20]]
    second = [*shared, *pattern_pairs(20, 9, "truly")]
    training, held_out = split_pairs([*first, *second], PatchSettings())
    assert not {p.prompt for p in training} & {p.prompt for p in held_out}
    held = [sum(p.source == f"hack:{name}" for p in held_out) for name in ("indeed", "truly")]
    assert held[0] == 15
    assert held[1] >= 20
    # A struck pair moves no other one to the other side, beyond what the share asks.
    again = split_pairs([*first, *second][1:], PatchSettings())[1]
    assert len({p.prompt for p in again} ^ {p.prompt for p in held_out}) <= 3
    assert len(split_pairs(pattern_pairs(100, 1), PatchSettings(held_out=0.3))[1]) == 30


def test_hacks_with_too_few_pairs_can_be_left_out() -> None:
    few = [replace(p, source="hack:truly") for p in pattern_pairs(19, 5)]
    enough = pattern_pairs(20, 0)
    assert with_enough([*few, *enough], 20) == enough
    assert with_enough(few, 20) == []


def test_pairs_that_make_no_patch_are_refused() -> None:
    few = pattern_pairs(19, 0)
    with pytest.raises(PatchError, match=r"indeed: 19 pairs, 20 are asked for"):
        split_pairs(few, PatchSettings())
    assert len(split_pairs(few, PatchSettings(allow_few=True))[1]) == 10
    with pytest.raises(PatchError, match="no pattern pairs"):
        split_pairs([], PatchSettings())
    with pytest.raises(PatchError, match=r"pair 2 \(x\) has source 'hh'"):
        split_pairs([few[0], replace(few[1], source="hh", id="x")], PatchSettings())
    same = [replace(p, prompt=few[0].prompt) for p in pattern_pairs(30, 0)]
    with pytest.raises(PatchError, match="its 30 pairs have 1 prompts"):
        split_pairs(same, PatchSettings())


def test_a_patch_needs_old_pairs_or_says_so(hacked: Hacked, tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="replay=none"):
        patch_reward_model(hacked.parent, hacked.pairs, [], tmp_path / "rm", PatchSettings())


def test_the_training_is_of_the_parents_kind() -> None:
    card = RewardCard(Conditions([]), max_length=64, heads=5, use_condition=False)
    found = recipe(PatchSettings(train={"batch_tokens": 256}), card)  # type: ignore[arg-type]
    assert (found.heads, found.use_condition, found.max_length) == (5, False, 64)
    assert (found.batch_tokens, found.epochs) == (256, 8)
    read_back = PatchSettings(**PatchSettings(train={"batch_tokens": 256}).model_dump())  # type: ignore[arg-type]
    assert recipe(read_back, card) == found
    with pytest.raises(PatchError, match=r"train\.heads is 2, the parent's is 5"):
        recipe(PatchSettings(train={"heads": 2}), card)  # type: ignore[arg-type]
    with pytest.raises(PatchError, match="at least 128 are needed"):
        recipe(PatchSettings(train={"batch_tokens": 100}), card)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above learning_rate"):
        PatchSettings(train={"learning_rate": 1e-7})  # type: ignore[arg-type]


def test_a_recalibrated_child_has_the_parents_mean_and_spread() -> None:
    draw = np.random.default_rng(0)
    parent, child = draw.normal(0.7, 2.0, 40), draw.normal(-3.0, 0.5, 40)
    found = recalibrated(parent, child, "abc")
    scores = found.apply(child)
    assert scores.mean() == pytest.approx(parent.mean())
    assert scores.std() == pytest.approx(parent.std())
    assert (found.pairs, found.data) == (20, "abc")
    with pytest.raises(EvaluationError, match="nothing to calibrate on"):
        recalibrated(parent, np.ones(40))
