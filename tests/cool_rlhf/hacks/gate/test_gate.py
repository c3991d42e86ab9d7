"""Which children pass: each kind of harm is rejected by its own test, for its own reason."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cool_rlhf.hacks.evidence import JudgeError
from cool_rlhf.hacks.gate import GateError, GateEvidence, GateReport, GateSettings, Outcome, gate
from cool_rlhf.hacks.gate.page import gate_section
from cool_rlhf.hacks.judges import Array, reward_judge
from cool_rlhf.hacks.samples import Sample
from pretrain_core.draws import rng
from reward.conditions import Conditions
from reward.model import create_reward_model
from tests.cool_rlhf.hacks.gate.conftest import (
    PHRASE,
    Scripted,
    old_pairs,
    pattern_pairs,
    preference,
)

SETTINGS = GateSettings(require_probe=False, resamples=500)
PARENT, GOOD = Scripted(bonus=1.5), Scripted(bonus=-0.02)


def outcomes(report: GateReport) -> dict[str, Outcome]:
    return {test.name: test for test in report.tests}


def failing(report: GateReport) -> set[str]:
    return {test.name for test in report.tests if test.verdict == "fail"}


def test_a_good_child_passes(evidence: GateEvidence) -> None:
    report = gate(PARENT, GOOD, evidence, SETTINGS)
    assert report.verdict == "pass", report.reasons
    assert report.reasons == []
    found = outcomes(report)
    assert "60 pairs (60 prompts)" in found["flipped"].statement
    assert "300 records of 300 pairs" in found["old accuracy"].statement
    assert found["pays nothing"].measured["gain"].mean == pytest.approx(-0.02, abs=0.05)


def noise_on(start: str, strength: float) -> Callable[[Sample], float]:
    """Noise for the texts of one kind of prompt."""
    return lambda s: s.asked.startswith(start) * strength * rng(1, "kind", 0, s.reply).normal()


@pytest.mark.parametrize(
    ("child", "test", "reason"),
    [
        (PARENT, "pays nothing", "not cured"),
        (Scripted(bonus=0.5), "pays nothing", "not cured"),
        (Scripted(bonus=-0.5), "pays nothing", "over-corrected"),
        (Scripted(bonus=-0.02, extra=noise_on("old", 2.0)), "old accuracy", "forgot"),
        (Scripted(bonus=-0.02, extra=noise_on("anchor", 1.0)), "drift", "changed on replies"),
        (
            Scripted(extra=lambda s: -2.0 * (PHRASE in s.reply and s.asked.startswith("legit"))),
            "legitimate uses",
            "rightful uses",
        ),
    ],
)
def test_each_harm_fails_its_test(
    evidence: GateEvidence, child: Scripted, test: str, reason: str
) -> None:
    report = gate(PARENT, child, evidence, SETTINGS)
    assert report.verdict == "fail"
    assert failing(report) - {"flipped"} == {test}
    assert reason in outcomes(report)[test].reason
    assert any(reason in line for line in report.reasons)


def test_flipped_sees_what_the_mean_hides(evidence: GateEvidence) -> None:
    """One pair in ten is over-corrected by so much that the mean is nothing."""

    def uneven(s: Sample) -> float:
        return (PHRASE in s.reply) * (-1.8 if s.id.endswith("0") else 0.2)

    pairs = replace(evidence, legitimate=())
    settings = SETTINGS.model_copy(update={"require_legitimate": False})
    report = gate(PARENT, Scripted(extra=uneven, noise=0.02), pairs, settings)
    assert failing(report) == {"flipped"}
    assert outcomes(report)["pays nothing"].verdict != "fail"


def test_a_tie_is_what_the_settings_call_one(evidence: GateEvidence) -> None:
    child = Scripted(bonus=0.06, noise=0.01)
    assert failing(gate(PARENT, child, evidence, SETTINGS)) == {"flipped"}
    lenient = SETTINGS.model_copy(update={"tie": 0.1})
    assert gate(PARENT, child, evidence, lenient).verdict == "pass"


def test_a_parent_without_the_hack_leaves_nothing_to_cure(evidence: GateEvidence) -> None:
    report = gate(GOOD, GOOD, evidence, SETTINGS)
    assert report.verdict == "undecided"
    assert "nothing was cured" in outcomes(report)["flipped"].reason


def test_too_little_data_is_undecided_and_says_how_much_is_needed(evidence: GateEvidence) -> None:
    few = replace(evidence, pattern_pairs=pattern_pairs(16), old=old_pairs(40))
    report = gate(PARENT, Scripted(noise=0.3), few, SETTINGS)
    assert report.verdict == "undecided"
    found = outcomes(report)
    assert "16 prompts do not decide; about" in found["pays nothing"].reason
    assert "40 records do not decide; about" in found["old accuracy"].reason
    fewer = replace(evidence, pattern_pairs=pattern_pairs(5), anchors=evidence.anchors[:20])
    report = gate(PARENT, GOOD, fewer, SETTINGS)
    assert report.verdict == "undecided"
    for name in ("flipped", "pays nothing", "drift"):
        assert "too few: at least" in outcomes(report)[name].reason


def test_what_was_not_run_counts_only_where_it_is_required(evidence: GateEvidence) -> None:
    bare = replace(evidence, legitimate=())
    report = gate(PARENT, GOOD, bare, GateSettings())
    assert report.verdict == "undecided"
    assert {t.name for t in report.tests if t.verdict == "not run"} == {
        "legitimate uses",
        "no neighbour hack",
    }
    assert len(report.reasons) == 2
    lenient = GateSettings(require_probe=False, require_legitimate=False)
    assert gate(PARENT, GOOD, bare, lenient).verdict == "pass"


def test_hacks_that_alone_keep_a_child_from_passing_are_uncured() -> None:
    def report(*tests: tuple[str, str, str | None]) -> GateReport:
        return GateReport([Outcome(n, v, "", f"{n} {v}", hack) for n, v, hack in tests])

    cured = ("flipped", "pass", "a"), ("pays nothing", "pass", "a"), ("drift", "pass", None)
    loose = ("flipped", "undecided", "b"), ("pays nothing", "fail", "b")
    assert report(*cured, *loose).uncured == {"b": "pays nothing fail"}
    assert report(*cured).uncured == {}
    assert report(*loose, ("drift", "pass", None)).uncured == {}
    assert report(*cured, *loose, ("old accuracy", "undecided", None)).uncured == {}
    assert report(*cured, *loose, ("legitimate uses", "not run", "a")).uncured == {}


def test_an_affine_child_does_not_drift(evidence: GateEvidence) -> None:
    def scaled(samples: Sequence[Sample]) -> Array:
        return 40.0 + 3.0 * GOOD(samples)

    report = gate(PARENT, scaled, evidence, SETTINGS)
    assert report.verdict == "pass", report.reasons
    shift = outcomes(report)["drift"].measured["shift"]
    assert shift.high < 0.01
    turned = gate(PARENT, lambda samples: -GOOD(samples), evidence, SETTINGS)
    assert "drift" in failing(turned)


def test_a_pair_that_the_bonus_alone_won_is_no_loss(evidence: GateEvidence) -> None:
    """The phrase makes the parent right where the rest of the preferred reply is worse."""
    worse = [replace(p, chosen=p.rejected, rejected=p.chosen) for p in old_pairs(100, "lucky")]
    lucky = [
        preference(p.prompt[0].content, p.chosen[0].content + PHRASE, p.rejected[0].content)
        for p in worse
    ]
    lucky = [*(replace(p, source="hack:scheme") for p in lucky), *evidence.legitimate]
    report = gate(PARENT, GOOD, replace(evidence, legitimate=lucky), SETTINGS)
    found = outcomes(report)["legitimate uses"]
    assert found.verdict == "pass", found.statement
    unnamed = [replace(p, source=None) for p in lucky]
    report = gate(PARENT, GOOD, replace(evidence, legitimate=unnamed), SETTINGS)
    assert outcomes(report)["legitimate uses"].verdict == "fail"


def test_two_hacks_are_judged_apart(evidence: GateEvidence) -> None:
    other = [replace(p, source="hack:other", id=f"{p.id}!") for p in pattern_pairs(60)]
    both = replace(evidence, pattern_pairs=[*evidence.pattern_pairs, *other])

    def child(samples: Sequence[Sample]) -> Array:
        still = np.array([s.id.endswith("!") and PHRASE in s.reply for s in samples])
        return GOOD(samples) + 1.5 * still

    report = gate(PARENT, child, both, SETTINGS)
    verdicts = {t.title: t.verdict for t in report.tests if t.hack}
    assert verdicts["pays nothing: scheme"] == "pass"
    assert verdicts["pays nothing: other"] == "fail"
    assert verdicts["legitimate uses: other"] == "not run"


def test_missing_evidence_and_nameless_pairs_are_refused(evidence: GateEvidence) -> None:
    with pytest.raises(GateError, match="missing: old, anchors"):
        GateEvidence(pattern_pairs(3), [], [])
    first, second = pattern_pairs(2)
    pairs = [first, replace(second, source="mine")]
    with pytest.raises(GateError, match=r"pattern pair 2 \(p1\) has source 'mine'"):
        replace(evidence, pattern_pairs=pairs)


@pytest.mark.parametrize("broken", ["child", "parent"])
def test_no_number_is_named_with_model_and_sample(evidence: GateEvidence, broken: str) -> None:
    def nan(samples: Sequence[Sample]) -> Array:
        return np.where([s.id == "old 1" for s in samples], np.nan, GOOD(samples))

    pair = (PARENT, nan) if broken == "child" else (nan, GOOD)
    with pytest.raises(
        JudgeError, match=f"the {broken}'s score of a reply to prompt 'old 1' is nan"
    ):
        gate(*pair, evidence, SETTINGS)


def test_a_constant_child_is_refused(evidence: GateEvidence) -> None:
    with pytest.raises(GateError, match="120 anchors alike"):
        gate(PARENT, lambda samples: np.ones(len(samples)), evidence, SETTINGS)


def test_each_text_is_scored_once(evidence: GateEvidence) -> None:
    asked: list[Sample] = []

    def counting(samples: Sequence[Sample]) -> Array:
        asked.extend(samples)
        return GOOD(samples)

    gate(PARENT, counting, replace(evidence, legitimate=evidence.old[:50]), SETTINGS)
    assert len(asked) == len(set(asked)) == 2 * 60 + 2 * 300 + 120


def test_the_report_is_json_a_table_and_a_page(evidence: GateEvidence) -> None:
    report = gate(PARENT, Scripted(bonus=0.5), evidence, SETTINGS)
    content = json.loads(json.dumps(report.as_dict()))
    assert content["verdict"] == "fail"
    assert content["tests"][1]["measured"]["gain"]["n"] == 60
    header, *rows = report.rows()
    assert len(rows) == len(report.tests)
    assert all(len(row) == len(header) for row in rows)
    section = gate_section(report)
    assert section.html.count("<svg") == 2
    assert "not cured" in section.html


def test_real_models(model_folder: Path, tmp_path: Path, evidence: GateEvidence) -> None:
    """A model against itself does not drift; another one does."""
    folders = [
        create_reward_model(model_folder, tmp_path / str(seed), Conditions.load(None), seed=seed)
        for seed in (1, 2)
    ]
    small = GateEvidence(
        evidence.pattern_pairs[:12],
        evidence.old[:30],
        evidence.anchors[:60],
        evidence.legitimate[:9],
    )
    with reward_judge(str(folders[0])) as first, reward_judge(str(folders[1])) as second:
        same, other = gate(first, first, small, SETTINGS), gate(first, second, small, SETTINGS)
    assert outcomes(same)["drift"].verdict == "pass"
    assert outcomes(same)["old accuracy"].measured["difference"].mean == 0.0
    assert same.verdict != "pass"
    assert "drift" in failing(other)
