"""Paired bootstrap intervals over clusters, vectorised."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pretrain_core.draws import rng

Array = npt.NDArray[np.float64]
WEIGHTS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean with its percentile bootstrap interval over `n` values in `clusters` clusters."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int
    confidence: float = 0.95

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    values: npt.ArrayLike,
    *,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 2000,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """Mean of per-pair values (differences, or right/wrong) with its interval.

    What belongs together (the same pair judged under two conditions) shares a key in `clusters`
    and is resampled as one; default: each value alone. Equal seed, length and clusters resample
    alike, so two intervals are comparable. Raises ValueError for no values or a NaN.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0:
        raise ValueError(f"a bootstrap needs a list of values, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"value {int(np.argmax(~np.isfinite(x)))} is {x[~np.isfinite(x)][0]}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} must lie between 0 and 1")
    sums, counts = _per_cluster(x, clusters)
    draw = rng(seed, "bootstrap")
    groups = len(sums)
    chunk = max(1, WEIGHTS_AT_ONCE // groups)
    means: list[Array] = []
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        weights = draw.multinomial(groups, np.full(groups, 1 / groups), size=rows)
        means.append((weights @ sums) / (weights @ counts))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(x.mean()), float(low), float(high), len(x), groups, confidence)


def _per_cluster(x: Array, clusters: Sequence[Hashable] | None) -> tuple[Array, Array]:
    if clusters is None:
        return x, np.ones_like(x)
    if len(clusters) != len(x):
        raise ValueError(f"{len(x)} values but {len(clusters)} clusters")
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(key, len(numbers)) for key in clusters])
    return (
        np.bincount(index, weights=x, minlength=len(numbers)).astype(np.float64),
        np.bincount(index, minlength=len(numbers)).astype(np.float64),
    )
