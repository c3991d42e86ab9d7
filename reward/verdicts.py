"""Three-way verdicts: an interval lies inside its limits, outside them, or does not decide."""

import math
from typing import Literal

from reward.intervals import Interval

Verdict = Literal["pass", "fail", "undecided"]
POWER = 0.8
MOST = 1_000_000
"""Values beyond which nobody collects more."""


def verdict(found: Interval, least: float = -math.inf, most: float = math.inf) -> Verdict:
    """`pass`: the whole interval lies within the limits; `fail`: all of it beyond one of them.

    A wide interval is never a pass: not seeing a difference is no proof that there is none.
    """
    if least <= found.low and found.high <= most:
        return "pass"
    return "fail" if found.high < least or found.low > most else "undecided"


def values_needed(found: Interval, least: float = -math.inf, most: float = math.inf) -> int | None:
    """About how many values decide with a chance of POWER, if their mean stays; None: too many.

    The interval is taken to shrink with the root of the number of values.
    """
    from scipy.stats import norm

    distance = min(abs(found.mean - limit) for limit in (least, most) if math.isfinite(limit))
    z = float(norm.ppf((1 + found.confidence) / 2))
    error = (found.high - found.low) / 2 / z
    if distance == 0:
        return None
    needed = found.n * ((z + float(norm.ppf(POWER))) * error / distance) ** 2
    return max(found.n + 1, math.ceil(needed)) if needed <= MOST else None
