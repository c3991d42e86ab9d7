"""What an interval decides, and how many values would: known values."""

import pytest

from reward.intervals import Interval
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
