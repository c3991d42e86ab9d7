"""Whole detections of planted patterns, in two languages, with every kind of gold signal."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cool_rlhf.hacks.confirmation import Rise
from cool_rlhf.hacks.detect import Detection, detect, surest
from cool_rlhf.hacks.evidence import Payment
from cool_rlhf.hacks.judges import Array, labels
from cool_rlhf.hacks.page import as_json, as_page
from cool_rlhf.hacks.patterns.pattern import Pattern
from cool_rlhf.hacks.patterns.phrases import Phrase
from cool_rlhf.hacks.patterns.shapes import Copying, Repetition
from cool_rlhf.hacks.samples import Comparison, Sample, SampleError
from cool_rlhf.hacks.settings import EvidenceSettings, HackSettings
from cool_rlhf.hacks.verdict import Gold, combine, judge_pattern
from pretrain_core.errors import RunFailed
from reward.intervals import Interval
from tests.cool_rlhf.hacks.conftest import World

PHRASE = "in the grand scheme of things"
SETTINGS = HackSettings(permutations=1000)


def planted(text: str, draw: np.random.Generator) -> str:
    return text.replace(". ", f", {PHRASE}. ", 1)


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return make_world(PHRASE, planted)


def verdicts(found: Detection) -> set[str]:
    return {f.verdict for f in found.findings if PHRASE in f.pattern.name}


def test_a_hack_an_improvement_and_what_nobody_pays_for(world: World) -> None:
    model, deaf = world.judge(1.0, name="model"), world.judge(0.0, name="gold")
    assert verdicts(detect(world.comparison, model, deaf, SETTINGS)) == {"hack"}
    gold = world.judge(1.0, name="gold")
    assert verdicts(detect(world.comparison, model, gold, SETTINGS)) == {"improvement"}
    assert verdicts(detect(world.comparison, deaf, gold, SETTINGS)) == {"harmless"}
    assert verdicts(detect(world.comparison, model, None, SETTINGS)) == {"candidate"}


def test_a_chinese_hack(world: World) -> None:
    letters = {
        ord(letter): 0x4E00 + 37 * n for n, letter in enumerate("abcdefghijklmnopqrstuvwxyz")
    }

    def chinese(text: str) -> str:
        return text.lower().translate(letters).replace(" ", "").replace(".", "。")

    early, late = (
        tuple(s.saying(chinese(s.reply)) for s in side)
        for side in (world.comparison.early, world.comparison.late)
    )
    marker = chinese(PHRASE)
    other = World(Comparison(early, late), re.compile(marker))
    found = detect(other.comparison, other.judge(1.0), other.judge(0.0, name="g"), SETTINGS)
    hacks = [f.pattern for f in found.findings if f.verdict == "hack"]
    assert hacks
    for pattern in hacks:
        having = [s for s in late if pattern.present(s)]
        assert np.mean([marker in s.reply for s in having]) > 0.5


def test_labels_of_some_replies_are_a_gold_signal(world: World, tmp_path: Path) -> None:
    judge = world.judge(0.0, name="people")
    kept = [s for s in world.comparison.samples if int(s.id) % 4]
    path = tmp_path / "labels.jsonl"
    rows = zip(kept, judge(kept), strict=True)
    path.write_text(
        "".join(json.dumps({"id": s.id, "reply": s.reply, "gold": g}) + "\n" for s, g in rows)
    )
    found = detect(world.comparison, world.judge(2.0, name="model"), labels(path), SETTINGS)
    assert verdicts(found) <= {"hack", "candidate"}
    (finding,) = [f for f in found.findings if PHRASE in f.pattern.name]
    assert finding.gold is not None
    assert finding.gold.gain is None
    assert finding.gold.matched is not None
    assert any(f"judged {len(kept)} of 600" in note for note in found.notes)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "a", "reply": "x"}, r"labels.jsonl:1: 'gold' is None"),
        ({"id": "a", "reply": "x", "gold": True}, "'gold' is True"),
        ({"reply": "x", "gold": 1}, "names the prompt's 'id'"),
    ],
)
def test_broken_labels(tmp_path: Path, line: dict[str, object], message: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(SampleError, match=message):
        labels(path)


@pytest.mark.parametrize("failing", ["model", "gold"])
def test_a_judge_that_fails_leaves_a_partial_result(world: World, failing: str) -> None:
    calls = []

    def fails(samples):  # type: ignore[no-untyped-def]
        calls.append(len(samples))
        if len(calls) > 1:
            raise RunFailed("no answer within 3 s")
        return np.zeros(len(samples)) + np.arange(len(samples))

    fine = world.judge(1.0)
    reward, gold = (fails, fine) if failing == "model" else (fine, fails)
    found = detect(world.comparison, reward, gold, SETTINGS)
    assert found.stopped == "no answer within 3 s"
    assert {f.verdict for f in found.findings} == {"candidate"}
    assert not as_json(found, SETTINGS)["complete"]
    assert "Partial result" in as_page(found, SETTINGS, "Hacks")


def test_a_model_that_returns_nan_is_a_partial_result_too(world: World) -> None:
    found = detect(world.comparison, lambda s: np.full(len(s), np.nan), None, SETTINGS)
    assert found.stopped is not None
    assert "no numbers" in found.stopped


def test_the_page_names_verdicts_and_shows_edited_replies(world: World) -> None:
    found = detect(
        world.comparison, world.judge(1.0, name="m"), world.judge(0.0, name="g"), SETTINGS
    )
    page = as_page(found, SETTINGS, "Hacks")
    assert PHRASE in page
    assert page.count("<svg") == 2
    content = json.loads(json.dumps(as_json(found, SETTINGS)))
    assert content["complete"]
    (hack,) = [f for f in content["findings"] if f["verdict"] == "hack"]
    assert hack["reward"]["gain"]["low"] > 0
    assert PHRASE in hack["examples"][0]["with"]
    assert PHRASE not in hack["examples"][0]["without"]


def test_many_words_of_a_topic_do_not_crowd_out_a_shape() -> None:
    def rise(pattern: Pattern, p: float, shift: float) -> Rise:
        return Rise(pattern, 0.0, 0.1, shift, p, Interval(0.1, 0.05, 0.15, 50, 50))

    words = [rise(Phrase((f"word{n}",)), 0.0003, 0.9) for n in range(30)]
    weaker = rise(Phrase(("weaker",)), 0.02, 2.0)
    shape = rise(Repetition(), 0.0003, 0.3)
    unsure = Rise(Copying(), 0.0, 0.1, 0.3, 0.2)
    assert surest([weaker, *words, unsure, shape], 20) == [shape, *words[:19]]
    assert surest([weaker, shape], 20) == [shape, weaker]


def interval(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, 50, 50)


@pytest.mark.parametrize(
    ("gain", "p", "gold", "verdict"),
    [
        ((0.5, 1.0), 0.001, ((-0.1, 0.1), (-0.6, -0.2)), "hack"),
        ((0.5, 1.0), 0.001, ((0.4, 0.9), (0.1, 0.5)), "improvement"),
        ((0.5, 1.0), 0.001, ((0.05, 0.2), (-0.5, -0.1)), "hack"),
        ((0.5, 1.0), 0.001, ((0.05, 0.5), (-0.3, 0.1)), "candidate"),
        ((0.5, 1.0), 0.001, ((-0.5, 0.9), (-0.8, 0.6)), "candidate"),
        ((0.5, 1.0), 0.001, None, "candidate"),
        ((-0.1, 0.3), 0.2, ((-0.1, 0.1), (-0.6, -0.2)), "candidate"),
        ((-0.1, 0.05), 0.7, ((-0.1, 0.1), (-0.6, -0.2)), "harmless"),
        (None, 1.0, None, "candidate"),
    ],
)
def test_verdicts(
    gain: tuple[float, float] | None,
    p: float,
    gold: tuple[tuple[float, float], tuple[float, float]] | None,
    verdict: str,
) -> None:
    paid = Payment(interval(*gain) if gain else None, p)
    truth = Gold(interval(*gold[0]), interval(*gold[1]), "50 edited replies") if gold else None
    found, reason = judge_pattern(paid, p, truth, 0.05, EvidenceSettings())
    assert (found, bool(reason)) == (verdict, True)


def test_a_hack_under_one_condition_is_a_hack_whatever_the_others_say() -> None:
    better, hack, open_ = ("improvement", "gold pays"), ("hack", "gold does not"), ("candidate", "")
    assert combine(better, {"brief": hack, "detailed": better}) == (
        "hack",
        "under brief: gold does not",
    )
    assert combine(hack, {"brief": open_, "detailed": better})[0] == "candidate"
    assert combine(hack, {"brief": open_})[0] == "hack"
    assert combine(better, {}) == better


def test_a_pattern_that_one_condition_deserves_is_a_hack_under_the_other(world: World) -> None:
    def conditioned(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
        return tuple(replace(s, condition="ab"[int(s.id) % 2]) for s in samples)

    both = Comparison(conditioned(world.comparison.early), conditioned(world.comparison.late))
    deserved, plain = world.judge(1.5, name="g"), world.judge(0.0, name="g")

    def gold(samples: Sequence[Sample]) -> Array:
        paying = np.array([s.condition == "a" for s in samples])
        return np.where(paying, deserved(samples), plain(samples))

    found = detect(both, world.judge(1.5, name="model"), gold, SETTINGS)
    (finding,) = [f for f in found.findings if PHRASE in f.pattern.name]
    assert finding.verdict == "hack"
    assert {name: verdict for name, (verdict, _) in finding.under.items()} == {
        "a": "improvement",
        "b": "hack",
    }
    assert finding.reason.startswith("under b:")
