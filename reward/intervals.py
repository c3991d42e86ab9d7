"""Paired bootstrap intervals over clusters, vectorised."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

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
    return bootstrap_statistic(
        np.stack([x, np.ones_like(x)], axis=1),
        lambda sums: sums[:, 0] / sums[:, 1],
        seed=seed,
        confidence=confidence,
        resamples=resamples,
        clusters=clusters,
    )


def bounded_bootstrap(
    values: npt.ArrayLike,
    bounds: tuple[float, float],
    *,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 2000,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """As `paired_bootstrap`, for values that cannot lie beyond `bounds`: right or wrong, won, lost.

    Ten equal values out of ten resample to no spread at all and would look certain. So one made-up
    cluster at each bound takes part in the resampling (for paired yes and no this is the interval
    of Bonett and Price 2012); mean and counts are those of the values.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0:
        raise ValueError(f"a bootstrap needs a list of values, got shape {x.shape}")
    keys: Sequence[Hashable] = range(len(x)) if clusters is None else clusters
    count = len(set(keys))
    size = len(x) / count
    ends = np.array([[bound * size, size] for bound in bounds])
    found = bootstrap_statistic(
        np.concatenate([np.stack([x, np.ones_like(x)], axis=1), ends]),
        lambda sums: sums[:, 0] / sums[:, 1],
        seed=seed,
        confidence=confidence,
        resamples=resamples,
        clusters=[*((key,) for key in keys), "lower bound", "upper bound"],
    )
    return replace(found, mean=float(x.mean()), n=len(x), clusters=count)


def student_interval(values: npt.ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Mean of at least two independent values with Student's interval; for few of them.

    A percentile bootstrap of a dozen values is too short. Raises ValueError for fewer than two.
    """
    from scipy.stats import t as student

    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2:
        raise ValueError(f"Student's interval needs two values, got shape {x.shape}")
    mean = float(x.mean())
    half = float(student.ppf((1 + confidence) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half, len(x), len(x), confidence)


def bootstrap_statistic(
    columns: Array,
    statistic: Callable[[Array], Array],
    *,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 2000,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """Interval of any statistic of column sums: a ratio, a correlation, a calibration error.

    `columns` [values, k]; `statistic` maps sums [resamples, k] to numbers [resamples]. Clusters and
    errors as in `paired_bootstrap`.
    """
    finite = np.isfinite(columns).all(axis=1)
    if not finite.all():
        bad = int(np.argmin(finite))
        raise ValueError(f"value {bad} is {columns[bad][~np.isfinite(columns[bad])][0]}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} must lie between 0 and 1")
    sums = _per_cluster(columns, clusters)
    draw = rng(seed, "bootstrap")
    groups = len(sums)
    chunk = max(1, WEIGHTS_AT_ONCE // groups)
    found: list[Array] = []
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        weights = draw.multinomial(groups, np.full(groups, 1 / groups), size=rows)
        found.append(statistic(weights @ sums))
    tail = (1 - confidence) / 2
    # A resample on which the statistic does not exist (a ratio without cases) says nothing.
    low, high = np.nanquantile(np.concatenate(found), [tail, 1 - tail])
    mean = float(statistic(columns.sum(axis=0, keepdims=True))[0])
    return Interval(mean, float(low), float(high), len(columns), groups, confidence)


def _per_cluster(columns: Array, clusters: Sequence[Hashable] | None) -> Array:
    if clusters is None:
        return columns
    if len(clusters) != len(columns):
        raise ValueError(f"{len(columns)} values but {len(clusters)} clusters")
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(key, len(numbers)) for key in clusters])
    sums = np.zeros((len(numbers), columns.shape[1]))
    np.add.at(sums, index, columns)
    return sums
