"""Metrics that add up over micro-batches and ranks."""

from collections.abc import Iterable, Mapping

Stats = dict[str, float]
"""Metrics of one part: they add up over parts, except names that end in `_max`."""


def add_stats(parts: Iterable[Mapping[str, float]]) -> Stats:
    """Join the stats of micro-batches or ranks: sums, and the maximum of names in `_max`."""
    total: Stats = {}
    for part in parts:
        for name, value in part.items():
            if name not in total:
                total[name] = value
            elif name.endswith("_max"):
                total[name] = max(total[name], value)
            else:
                total[name] += value
    return total


def positive(denominator: int) -> None:
    """Raises ValueError unless a global denominator is positive."""
    if denominator <= 0:
        raise ValueError(f"the global denominator must be positive, is {denominator}")
