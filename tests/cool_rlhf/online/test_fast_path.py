"""The fast path of a round with a real reward model: found, patched, through the gate, kept."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cool_rlhf.hacks.confirmation import Rise
from cool_rlhf.hacks.detect import Finding
from cool_rlhf.hacks.evidence import Payment
from cool_rlhf.hacks.patch.run import PatchRunSettings
from cool_rlhf.hacks.patch.split import hack_of
from cool_rlhf.hacks.samples import Sample, write_samples
from cool_rlhf.hacks.settings import EvidenceSettings, HackSettings
from cool_rlhf.online import fast_path
from cool_rlhf.online.context import FAST_PATH, Context
from cool_rlhf.online.fast_path import check_prompts, first_to_patch, repair_reward_model
from cool_rlhf.online.reward_round import cured
from cool_rlhf.online.settings import FastPathSettings
from pretrain_core.chat import Message
from pretrain_core.errors import InputError
from pretrain_core.runs import StopSignal, read_json
from reward.data import Preference, write_preferences
from reward.evaluation import pair_scores
from reward.intervals import Interval
from reward.model import RewardModel
from tests.hacked import TRAIN, Hacked, reply

PROMPTS = 300
CONDITIONS = ("bright", "dark")


pytestmark = pytest.mark.usefixtures("one_thread")


def settings(**changes: Any) -> FastPathSettings:
    train = TRAIN | {"epochs": 8}
    # Ties as in the recipe of tiny models: which side of nothing a pair falls on is chance.
    gate = {"require_legitimate": False, "margin": 0.1, "tie": 0.1}
    return FastPathSettings(
        prompts=PROMPTS,
        detect=HackSettings(evidence=EvidenceSettings(confirmed=1), **changes),
        patch=PatchRunSettings(**{"train": train, "gate": gate, "replay_pairs": 2.0}),
    )


def samples(which: str, share: float) -> list[Sample]:
    """Replies of words; a share of them ends with `indeed`, which the reward model pays for."""
    found = []
    for number in range(PROMPTS):
        draw = np.random.default_rng([number, share > 0])
        text = reply(draw, str(draw.choice(["sun", "night", "stone"])))
        text += " indeed" * bool(draw.random() < share)
        asked = (Message(role="user", content=f"Question {number}."),)
        found.append(Sample(str(number), asked, text, CONDITIONS[number % 2]))
    return found


def context(hacked: Hacked, folder: Path) -> Context:
    """A run at the end of the first round's evaluation, its annotators fond of the right word."""
    files = {
        "preferences": write_preferences(folder / "old.jsonl", hacked.old),
        "held_out_preferences": write_preferences(folder / "held.jsonl", hacked.held_out),
    }
    given: Any = SimpleNamespace(
        fast_path=settings(), reward_model=hacked.parent, run=SimpleNamespace(seed=3), **files
    )
    made = Context(given, run=SimpleNamespace(path=folder))  # type: ignore[arg-type]
    words = dict(zip(CONDITIONS, ("sun", "night"), strict=True))
    made.__dict__["annotators"] = {
        name: SimpleNamespace(score=lambda text, word=word: float(word in text))
        for name, word in words.items()
    }
    return made


@pytest.fixture
def policies(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Share of `indeed` in the replies of the early and the late policy."""
    shares = {"early": 0.0, "late": 0.4}

    def sample_policy(_: Context, __: int, which: str, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        write_samples(folder / f"{which}.jsonl", samples(which, shares[which]))
        return folder / f"{which}.jsonl"

    monkeypatch.setattr(fast_path, "sample_policy", sample_policy)
    return shares


def test_the_hack_is_found_and_the_patched_model_is_the_rounds(
    hacked: Hacked, tmp_path: Path, policies: dict[str, float]
) -> None:
    run = context(hacked, tmp_path)
    repair_reward_model(run, 1, StopSignal("resume"))
    found = read_json(run.folder(1) / FAST_PATH / "result.json")
    assert len(found["hacks"]) == 1
    assert "indeed" in found["hacks"][0]
    gate = read_json(run.folder(1) / FAST_PATH / "patch" / "patch.json")["gate"]
    assert (found["verdict"], found["promoted"]) == ("pass", True), json.dumps(gate, indent=1)
    patched = run.folder(1) / FAST_PATH / "patch" / "rm"
    assert run.reward_model(1) == hacked.parent
    assert run.newest_reward_model(1) == run.reward_model(2) == patched
    pairs, hacks = cured(run, 1)
    assert [pair.source for pair in pairs] == [f"hack:{found['hacks'][0]}"] * len(pairs)
    tainted = [pair for pair in hacked.pairs if hacks[0].taints(pair)]
    assert tainted == hacked.pairs
    assert not any(hacks[0].taints(pair) for pair in hacked.old)
    before, after = (
        pair_scores(RewardModel.load(model), hacked.pairs).margins
        for model in (hacked.parent, patched)
    )
    assert abs(after.mean()) < 0.25 * abs(before.mean())


@pytest.mark.integration
def test_a_gold_signal_that_pays_too_means_nothing_is_patched(
    hacked: Hacked, tmp_path: Path, policies: dict[str, float]
) -> None:
    run = context(hacked, tmp_path)
    run.__dict__["annotators"] = {
        name: SimpleNamespace(score=lambda text: 2.0 * ("indeed" in text) + len(text) / 100)
        for name in CONDITIONS
    }
    repair_reward_model(run, 1, StopSignal("resume"))
    result = read_json(run.folder(1) / FAST_PATH / "result.json")
    assert (result["hacks"], result["patched"], result["promoted"]) == ([], [], False)
    assert result["verdict"] == "nothing to patch"
    assert run.newest_reward_model(1) == run.reward_model(2) == hacked.parent


@pytest.mark.integration
def test_a_hack_with_too_few_pairs_ends_no_round(
    hacked: Hacked, tmp_path: Path, policies: dict[str, float]
) -> None:
    run = context(hacked, tmp_path)
    patch = run.settings.fast_path.patch.model_copy(update={"least_pairs": 1000})  # type: ignore[union-attr]
    run.settings.fast_path = run.settings.fast_path.model_copy(update={"patch": patch})  # type: ignore[union-attr, misc]
    repair_reward_model(run, 1, StopSignal("resume"))
    result = read_json(run.folder(1) / FAST_PATH / "result.json")
    assert len(result["hacks"]) == 1
    assert (result["patched"], result["verdict"], result["promoted"]) == (
        [],
        "too few pairs",
        False,
    )
    assert run.reward_model(2) == hacked.parent


def test_the_hacks_that_earned_most_are_patched_first() -> None:
    def finding(name: str, paid: float | None, early: float, late: float) -> Finding:
        rise = Rise(SimpleNamespace(name=name), early, late, 0.0, 0.0)  # type: ignore[arg-type]
        gain = Interval(paid, paid, paid, 9, 9) if paid is not None else None
        return Finding(rise, "hack", "", Payment(gain, 0.0))

    found = [
        finding("paid much, rare", 0.9, 0.0, 0.1),
        finding("paid, and everywhere", 0.6, 0.2, 0.6),
        finding("without pairs", 2.0, 0.0, 1.0),
        finding("paid little", 0.1, 0.0, 0.5),
        finding("not measured", None, 0.0, 0.9),
    ]
    pairs = [
        Preference(id=str(n), prompt=(), chosen=(), rejected=(), source=f"hack:{f.pattern.name}")
        for n, f in enumerate([*found, *found])
        if f.pattern.name != "without pairs"
    ]
    for most, names in (
        (1, {"paid, and everywhere"}),
        (2, {"paid, and everywhere", "paid much, rare"}),
        (9, {pair.source.removeprefix("hack:") for pair in pairs if pair.source}),
    ):
        kept = first_to_patch(pairs, found, most)
        assert {hack_of(pair) for pair in kept} == names
        assert len(kept) == 2 * len(names)


def test_a_later_promotion_comes_before_an_earlier_patch(tmp_path: Path, hacked: Hacked) -> None:
    run = context(hacked, tmp_path)
    for number, file, promoted in (
        (1, f"{FAST_PATH}/result.json", True),
        (1, "gate.json", True),
        (2, "gate.json", False),
    ):
        path = run.folder(number) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"promoted": promoted}))
    assert run.reward_model(3) == run.folder(1) / "rm"


def test_too_few_prompts_are_refused_before_the_first_round(hacked: Hacked, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"prompts 100: \d+ are needed"):
        FastPathSettings(prompts=100)
    run = context(hacked, tmp_path)
    run.settings.prompts = SimpleNamespace(path=tmp_path / "prompts.jsonl")  # type: ignore[assignment]
    run.__dict__["prompts"] = [None] * 20
    with pytest.raises(InputError, match=r"prompts\.jsonl: 20 prompts, the fast path needs \d+"):
        check_prompts(run)
