"""Is a child no worse than its parent by more than a margin? Verdicts and error rates."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from reward.data import Preference, PreferenceError
from reward.evaluation import NonInferiority, PairScores, non_inferiority
from reward.intervals import Array

Maker = Callable[..., Preference]


@pytest.fixture(scope="module")
def pairs(make_pair: Maker) -> list[Preference]:
    return [make_pair("good", f"bad {number}") for number in range(200)]


def scores(right: Array) -> PairScores:
    return PairScores(np.where(right > 0, 1.0, -1.0), np.zeros(len(right)))


def compared(
    gained: Array, pairs: Sequence[Preference], margin: float = 0.05, **options: object
) -> NonInferiority:
    """`gained`: 1 where the child alone is right, −1 where the parent alone is, 0 where both."""
    return non_inferiority(
        scores(gained >= 0),
        scores(gained <= 0),
        pairs,
        margin=margin,
        **options,  # type: ignore[arg-type]
    )


def outcomes(lost: int, won: int, n: int) -> Array:
    return np.array([-1.0] * lost + [1.0] * won + [0.0] * (n - lost - won))


@pytest.mark.parametrize(
    ("lost", "won", "n", "due"),
    [
        (0, 0, 200, "pass"),
        (8, 8, 200, "pass"),
        (60, 10, 200, "fail"),
        (12, 6, 200, "undecided"),
        # Not one pair is lost, but twenty pairs cannot exclude one in twenty.
        (0, 0, 20, "undecided"),
    ],
)
def test_verdicts(pairs: Sequence[Preference], lost: int, won: int, n: int, due: str) -> None:
    found = compared(outcomes(lost, won, n), pairs[:n])
    assert found.verdict == due
    assert found.difference.mean == pytest.approx((won - lost) / n)
    assert found.child - found.parent == pytest.approx(found.difference.mean)


def test_one_condition_that_is_worse_fails_whatever_the_others_gain(
    pairs: Sequence[Preference],
) -> None:
    gained = np.array([1.0] * 30 + [0.0] * 70 + [-1.0] * 30 + [0.0] * 70)
    named = [replace(p, condition="b" if row >= 100 else "a") for row, p in enumerate(pairs)]
    assert compared(gained, pairs, margin=0.1).verdict == "pass"
    found = compared(gained, named, margin=0.1)
    assert (found.verdict, found.worse) == ("fail", ["b"])
    assert found.under["a"].confidence == pytest.approx(0.95)


@pytest.mark.parametrize("won", [0.0, 0.05])
def test_a_child_worse_by_just_the_margin_seldom_passes(
    pairs: Sequence[Preference], won: float
) -> None:
    draw = np.random.default_rng(5)
    chances = [0.05 + won, won, 1 - 0.05 - 2 * won]
    passed = [
        compared(
            draw.choice([-1.0, 1.0, 0.0], size=150, p=chances), pairs[:150], seed=run, resamples=200
        ).verdict
        == "pass"
        for run in range(300)
    ]
    assert np.mean(passed) <= 0.08  # 5 %, and three standard errors of 300 repeats


def test_scores_and_pairs_must_fit(pairs: Sequence[Preference]) -> None:
    with pytest.raises(PreferenceError, match="no preferences"):
        compared(outcomes(0, 0, 0), [])
    with pytest.raises(ValueError, match="20 and 20 scores for 200 pairs"):
        compared(outcomes(0, 0, 20), pairs)
