"""Intervals for few values, and what they decide: known values."""

import numpy as np
import pytest

from reward.intervals import Interval, bounded_bootstrap, student_interval
from reward.verdicts import values_needed, verdict


def interval(low: float, high: float, n: int = 20, mean: float | None = None) -> Interval:
    return Interval((low + high) / 2 if mean is None else mean, low, high, n, n, 0.9)


@pytest.mark.parametrize(
    ("low", "high", "due"),
    [
        (-0.1, 0.1, "pass"),
        (-0.2, 0.2, "pass"),
        (-0.3, 0.1, "undecided"),
        (-0.3, 0.3, "undecided"),
        (0.21, 0.5, "fail"),
        (-0.5, -0.21, "fail"),
    ],
)
def test_verdicts_inside_outside_and_across_the_limits(low: float, high: float, due: str) -> None:
    assert verdict(interval(low, high), least=-0.2, most=0.2) == due
    assert verdict(interval(low, high)) == "pass"


def test_how_many_values_would_decide() -> None:
    # Standard error 0.3 / 1.6449; 20 · ((1.6449 + 0.8416) · 0.1824 / 0.2)²
    assert values_needed(interval(-0.3, 0.3), least=-0.2, most=0.2) == 103
    assert values_needed(interval(0.1, 0.3), most=0.2) is None
    assert values_needed(interval(0.19, 0.31), most=0.2) > 20  # type: ignore[operator]


def test_a_perfect_record_on_few_values_is_not_certain() -> None:
    few = bounded_bootstrap(np.ones(10), (0.0, 1.0), seed=0)
    many = bounded_bootstrap(np.ones(1000), (0.0, 1.0), seed=0)
    assert (few.mean, few.high, few.n, few.clusters) == (1.0, 1.0, 10, 10)
    assert 0.65 < few.low < 0.85
    assert many.low > 0.99


def test_records_of_one_cluster_count_once() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0, -1.0, 0.0])
    once = bounded_bootstrap(values, (-1.0, 1.0), seed=3)
    twice = bounded_bootstrap(
        np.repeat(values, 2), (-1.0, 1.0), seed=3, clusters=list(np.repeat(range(6), 2))
    )
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))
    assert (twice.n, twice.clusters) == (12, 6)


def test_students_interval_by_hand() -> None:
    found = student_interval([1.0, 2.0, 3.0, 4.0], confidence=0.9)
    assert (found.low, found.high) == pytest.approx((2.5 - 1.51908, 2.5 + 1.51908), abs=1e-4)
    with pytest.raises(ValueError, match="two values"):
        student_interval([1.0])
    with pytest.raises(ValueError, match="list of values"):
        bounded_bootstrap([], (0.0, 1.0), seed=0)
