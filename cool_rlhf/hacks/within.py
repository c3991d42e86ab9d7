"""Least squares between replies of one group: what a score has to do with a property."""

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from reward.intervals import Interval, bootstrap_statistic

Array = npt.NDArray[np.float64]


def coefficient(
    columns: Array,
    values: Array,
    groups: Sequence[Hashable],
    clusters: Sequence[Hashable],
    seed: int,
    resamples: int,
) -> Interval:
    """Coefficient of the first of `columns` [n, k] in a fit of `values` [n] by all of them.

    All are taken relative to the means of their group; the interval resamples clusters.
    """
    centred = relative(np.concatenate([columns, values[:, None]], axis=1), groups)
    k = columns.shape[1]
    products = np.einsum("ni,nj->nij", centred[:, :k], centred).reshape(len(centred), -1)

    def solved(sums: Array) -> Array:
        both = sums.reshape(len(sums), k, k + 1)
        # A resample without variation has no coefficient; the ridge weighs far below one reply.
        left = both[:, :, :k] + 1e-6 * np.eye(k)
        return np.asarray(np.linalg.solve(left, both[:, :, k:])[:, 0, 0], dtype=np.float64)

    return bootstrap_statistic(products, solved, seed=seed, resamples=resamples, clusters=clusters)


def relative(columns: Array, groups: Sequence[Hashable]) -> Array:
    """Columns [n, k] minus the means of their rows' groups."""
    numbers: dict[Hashable, int] = {}
    rows = np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)
    counts = np.bincount(rows)
    means = np.stack([np.bincount(rows, column) / counts for column in columns.T], axis=1)
    return np.asarray(columns - means[rows], dtype=np.float64)
