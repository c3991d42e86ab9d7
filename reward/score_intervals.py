"""Score intervals of shares and of paired differences of yes and no: right for few values too.

A bootstrap of twenty equal values has no spread and looks certain, and where losses are rare its
interval ends too early. Score intervals ask of each possible value whether it would be rejected,
with the variance that it would have itself.
"""

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt

from reward.intervals import Array, Interval

HALVINGS = 50


def share_interval(
    values: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """Mean of values 0 and 1 with Wilson's interval.

    What belongs together shares a key in `clusters`; the number of values is divided by how much
    that widens the variance (the design effect, at least 1). Raises ValueError for other values.
    """
    x = _checked(values, (0.0, 1.0))
    size = _effective(x, clusters)
    mean, z = float(x.mean()), _quantile(confidence)
    centre = (mean + z**2 / (2 * size)) / (1 + z**2 / size)
    half = math.sqrt(mean * (1 - mean) / size + (z / (2 * size)) ** 2) * z / (1 + z**2 / size)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Interval(mean, low, high, len(x), _count(x, clusters), confidence)


def difference_interval(
    values: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """Mean of paired differences −1, 0 and 1 with Tango's interval (1998).

    Clusters as in `share_interval`. Raises ValueError for other values.
    """
    x = _checked(values, (-1.0, 0.0, 1.0))
    size, z = _effective(x, clusters), _quantile(confidence)
    won, lost = (float((x == sign).mean()) * size for sign in (1, -1))
    mean = float(x.mean())

    def above(difference: float) -> float:
        return _score(won, lost, size, difference)

    low = _root(lambda d: above(d) - z, -1.0, mean)
    high = _root(lambda d: above(d) + z, mean, 1.0)
    return Interval(mean, low, high, len(x), _count(x, clusters), confidence)


def _score(won: float, lost: float, size: float, difference: float) -> float:
    """Standard errors, at this difference, by which the observed one lies above it."""
    b = (2 * size - won + lost) * difference - won - lost
    c = -lost * difference * (1 - difference)
    losing = (math.sqrt(max(0.0, b**2 - 8 * size * c)) - b) / (4 * size)
    variance = size * (2 * losing + difference * (1 - difference))
    above = won - lost - size * difference
    if variance <= 0:
        return math.copysign(math.inf, above) if abs(above) > 1e-9 else 0.0
    return above / math.sqrt(variance)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _effective(x: Array, clusters: Sequence[Hashable] | None) -> float:
    """How many independent values these are worth."""
    if clusters is None or (count := _count(x, clusters)) == len(x):
        return float(len(x))
    numbers: dict[Hashable, int] = {}
    index = [numbers.setdefault(key, len(numbers)) for key in clusters]
    residuals = x - x.mean()
    alone = float((residuals**2).sum())
    if count < 2 or not alone:
        return float(count)
    together = float((np.bincount(index, residuals) ** 2).sum()) * count / (count - 1)
    return len(x) / max(1.0, together / alone)


def _count(x: Array, clusters: Sequence[Hashable] | None) -> int:
    return len(x) if clusters is None else len(set(clusters))


def _checked(values: npt.ArrayLike, known: tuple[float, ...]) -> Array:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0 or not np.isin(x, known).all():
        raise ValueError(f"expected a list of values among {known}, got {x[:5]} of shape {x.shape}")
    return x


def _quantile(confidence: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf((1 + confidence) / 2))
