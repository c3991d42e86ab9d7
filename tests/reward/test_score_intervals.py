"""Intervals for few values: known values, clusters, and how often they are wrong."""

from collections.abc import Callable

import numpy as np
import pytest

from reward.intervals import Interval, student_interval
from reward.score_intervals import difference_interval, share_interval


def outcomes(lost: int, won: int, n: int) -> list[float]:
    return [-1.0] * lost + [1.0] * won + [0.0] * (n - lost - won)


def test_wilson_by_hand() -> None:
    found = share_interval([1.0] * 8 + [0.0] * 2)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert share_interval([1.0] * 10).low == pytest.approx(10 / (10 + 1.95996**2), abs=1e-4)


def test_tango_by_hand() -> None:
    # No discordant pair: the interval is ±z² / (n + z²).
    end = 1.95996**2 / (20 + 1.95996**2)
    found = difference_interval(outcomes(0, 0, 20))
    assert (found.mean, found.low, found.high) == pytest.approx((0.0, -end, end), abs=1e-4)
    mirrored = difference_interval(outcomes(3, 9, 50))
    other = difference_interval(outcomes(9, 3, 50))
    assert (mirrored.low, mirrored.high) == pytest.approx((-other.high, -other.low), abs=1e-9)
    # Many pairs: the usual standard error.
    large = difference_interval(outcomes(400, 600, 10_000))
    error = np.sqrt((0.1 - 0.02**2) / 10_000)
    assert large.low == pytest.approx(0.02 - 1.96 * error, abs=1e-4)
    assert large.high == pytest.approx(0.02 + 1.96 * error, abs=1e-4)


@pytest.mark.parametrize("interval", [share_interval, difference_interval])
def test_records_of_one_cluster_count_once(interval: Callable[..., Interval]) -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0, 1.0, 0.0] * 10)
    once = interval(values)
    twice = interval(np.repeat(values, 2), clusters=list(np.repeat(range(60), 2)))
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), abs=5e-3)
    assert (twice.n, twice.clusters) == (120, 60)
    alike = interval(np.zeros(40), clusters=list(np.repeat(range(20), 2)))
    assert alike.high == pytest.approx(interval(np.zeros(20)).high)
    assert interval(values, clusters=list(range(60))) == once


@pytest.mark.parametrize(("n", "won"), [(60, 0.0), (150, 0.0), (150, 0.05), (300, 0.0)])
def test_the_lower_end_is_wrong_in_five_percent(n: int, won: float) -> None:
    draw = np.random.default_rng(1)
    lost = 0.05 + won
    drawn = draw.choice([-1.0, 1.0, 0.0], size=(500, n), p=[lost, won, 1 - lost - won])
    above = [difference_interval(x, confidence=0.9).low >= -0.05 for x in drawn]
    assert np.mean(above) <= 0.08  # 5 %, and three standard errors


def test_students_interval_by_hand() -> None:
    found = student_interval([1.0, 2.0, 3.0, 4.0], confidence=0.9)
    assert (found.low, found.high) == pytest.approx((2.5 - 1.51908, 2.5 + 1.51908), abs=1e-4)
    with pytest.raises(ValueError, match="two values"):
        student_interval([1.0])


def test_other_values_are_refused() -> None:
    with pytest.raises(ValueError, match="among"):
        share_interval([0.5])
    with pytest.raises(ValueError, match="among"):
        difference_interval([])
    with pytest.raises(ValueError, match="among"):
        difference_interval([np.nan, 1.0])
