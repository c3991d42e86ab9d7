import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reward.data import Preference, PreferenceError
from reward.evaluation import (
    PairScores,
    accuracy_report,
    compare,
    conflict_labels,
    pair_scores,
    paired_bootstrap,
    wrong_conditions,
)
from reward.model import RewardModel

Maker = Callable[..., Preference]


def scores(margins: list[float]) -> PairScores:
    return PairScores(np.array(margins), np.zeros(len(margins)))


def test_the_interval_of_a_share_is_the_binomial_one() -> None:
    values = np.r_[np.ones(280), np.zeros(120)]
    found = paired_bootstrap(values, seed=1, resamples=8000)
    half = 1.96 * (0.7 * 0.3 / 400) ** 0.5
    assert found.mean == pytest.approx(0.7)
    assert (found.low, found.high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.006)
    assert (found.n, found.clusters) == (400, 400)


def test_clusters_are_resampled_whole() -> None:
    """Doubling every value says nothing new: the interval stays, unless clusters are forgotten."""
    values = np.random.default_rng(0).normal(size=200)
    twice = np.repeat(values, 2)
    keys = [i // 2 for i in range(400)]
    once = paired_bootstrap(values, seed=1, resamples=4000)
    whole = paired_bootstrap(twice, seed=1, resamples=4000, clusters=keys)
    naive = paired_bootstrap(twice, seed=1, resamples=4000)
    assert (whole.low, whole.high) == pytest.approx((once.low, once.high))
    assert naive.high - naive.low < 0.8 * (once.high - once.low)
    assert whole.clusters == 200


def test_pairing_removes_what_both_models_share() -> None:
    draw = np.random.default_rng(0)
    hard = draw.random(500) < 0.5
    a = np.where(hard, 0.0, 1.0)
    b = np.where(draw.random(500) < 0.05, 0.0, a)
    assert paired_bootstrap(a - b, seed=1).excludes_zero
    interval = paired_bootstrap(a, seed=1)
    assert interval.high - interval.low > 0.08


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="a list of values"):
        paired_bootstrap([], seed=0)
    with pytest.raises(ValueError, match="value 1 is nan"):
        paired_bootstrap([0.0, float("nan")], seed=0)
    with pytest.raises(ValueError, match="confidence"):
        paired_bootstrap([1.0], seed=0, confidence=95)
    with pytest.raises(ValueError, match="2 values but 1 clusters"):
        paired_bootstrap([1.0, 0.0], seed=0, clusters=["a"])


def test_conflicts_are_found_by_what_was_judged(make_pair: Maker) -> None:
    records = [
        make_pair("a", "b", condition="bright"),
        make_pair("b", "a", condition="dark"),
        make_pair("c", "d", condition="bright"),
        make_pair("c", "d", condition="dark"),
        make_pair("e", "f", condition="dark"),
        make_pair("a", "b", condition="bright", prompt="Another."),
    ]
    assert conflict_labels(records) == [
        "conflicting",
        "conflicting",
        "agreeing",
        "agreeing",
        "single",
        "single",
    ]


def test_the_report_by_group(make_pair: Maker) -> None:
    records = []
    for n in range(30):
        records.append(make_pair(f"a{n}", f"b{n}", condition="bright", source="x"))
        records.append(make_pair(f"b{n}", f"a{n}", condition="dark", source="x"))
    records += [make_pair(f"c{n}", f"d{n}", condition="dark", source="y") for n in range(20)]
    knows = scores([1.0] * 80)
    blind = scores([1.0, -1.0] * 30 + [1.0] * 20)
    report = accuracy_report(records, {"with": knows, "without": blind})
    assert list(report.accuracy) == [
        "all",
        "condition bright",
        "condition dark",
        "source x",
        "source y",
        "conflicting",
    ]
    assert report.accuracy["conflicting"]["with"].mean == 1.0
    conflicting = report.accuracy["conflicting"]["without"]
    # A blind model is right on exactly one record of each pair: no doubt about 0.5 is left.
    assert (conflicting.low, conflicting.mean, conflicting.high) == (0.5, 0.5, 0.5)
    assert report.difference["source y"]["without"].mean == 0.0
    assert report.difference["conflicting"]["without"].low == 0.5
    header, rows = report.table()
    assert header == ["pairs", "n", "with", "without", "with − without"]
    assert [row[1] for row in rows] == ["80", "30", "50", "60", "20", "60"]
    assert json.loads(json.dumps(report.as_dict()))["scores"]["with"]["outside_band"] == 0.0


def test_ties_count_as_wrong_and_the_band_is_watched() -> None:
    found = PairScores(np.array([1.0, 2.0, 6.0]), np.array([1.0, 3.0, -5.5]))
    assert found.right.tolist() == [0.0, 0.0, 1.0]


def test_empty_and_mismatched_evaluations_are_refused(make_pair: Maker) -> None:
    with pytest.raises(PreferenceError, match="no preferences"):
        accuracy_report([], {"m": scores([])})
    with pytest.raises(ValueError, match="2 scores for 1 pairs"):
        accuracy_report([make_pair("a", "b")], {"m": scores([1.0, 1.0])})


def test_scores_of_pairs_are_those_of_conversations(reward_folder: Path, make_pair: Maker) -> None:
    """Golden: evaluation and scoring read the same input."""
    model = RewardModel.load(reward_folder)
    records = [
        make_pair("a stone", "a river and a cloud", condition="bright"),
        make_pair("x", "y"),
    ]
    found = pair_scores(model, records)
    by_hand = model.score_conversations(
        [[*r.prompt, *side] for r in records for side in (r.chosen, r.rejected)],
        ["bright", "bright", "default", "default"],
    ).numpy()
    assert found.chosen == pytest.approx(by_hand[0::2], abs=1e-6)
    assert found.rejected == pytest.approx(by_hand[1::2], abs=1e-6)


def test_a_model_compared_with_itself(
    reward_folder: Path, opposed: Callable[[int, int], list[Preference]]
) -> None:
    model, records = RewardModel.load(reward_folder), opposed(10, 0)
    report = compare(model, model, records)
    assert list(report.scores) == ["with conditions", "without", "wrong condition"]
    assert report.difference["all"]["without"].mean == 0.0
    wrong = wrong_conditions(records)
    assert wrong is not None
    assert {wrong(0, r) for r in records if r.condition == "bright"} == {"dark"}
    assert wrong_conditions(records[::2]) is None
