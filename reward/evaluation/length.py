"""Does the model reward length? Accuracy by which side is longer, beside "the longer wins"."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from reward.data import Preference
from reward.evaluation.scoring import PairScores, reply_text
from reward.intervals import Array, Interval, bootstrap_statistic, paired_bootstrap

DECILES = 10


@dataclass(frozen=True)
class LengthBias:
    """Lengths are characters of the reply; None where no pair of the kind exists.

    `correlation`: of margin and length difference through the origin, so that it does not matter
    which side was chosen: +1, the margin is the length difference; 0, it does not depend on it.
    `curve`: (mean length difference, mean margin) of ten equal groups of sides.
    """

    longer_chosen: Interval | None
    longer_rejected: Interval | None
    longer_wins: Interval
    correlation: Interval | None
    curve: tuple[tuple[float, float], ...]


def length_differences(preferences: Sequence[Preference]) -> Array:
    """Characters of the chosen reply minus those of the rejected one [pairs]."""
    return np.array(
        [len(reply_text(p.chosen)) - len(reply_text(p.rejected)) for p in preferences], dtype=float
    )


def length_bias(
    preferences: Sequence[Preference],
    scores: PairScores,
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> LengthBias:
    """Length bias of one model's scores; a tie in length counts ½ for "the longer wins"."""
    difference, margins = length_differences(preferences), scores.margins

    def accuracy(sign: float) -> Interval | None:
        chosen = np.flatnonzero(np.sign(difference) == sign)
        if not len(chosen):
            return None
        return paired_bootstrap(
            scores.right[chosen],
            seed=seed,
            confidence=confidence,
            clusters=[clusters[row] for row in chosen],
        )

    products = np.stack([margins * difference, margins**2, difference**2], axis=1)
    both_vary = bool(margins.any() and difference.any())
    return LengthBias(
        accuracy(1.0),
        accuracy(-1.0),
        paired_bootstrap(
            (np.sign(difference) + 1) / 2, seed=seed, confidence=confidence, clusters=clusters
        ),
        bootstrap_statistic(products, _cosine, seed=seed, confidence=confidence, clusters=clusters)
        if both_vary
        else None,
        _curve(np.r_[difference, -difference], np.r_[margins, -margins]),
    )


def _cosine(sums: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[:, 0] / np.sqrt(sums[:, 1] * sums[:, 2])


def _curve(difference: Array, margins: Array) -> tuple[tuple[float, float], ...]:
    order = np.argsort(difference, kind="stable")
    parts = [part for part in np.array_split(order, DECILES) if len(part)]
    return tuple((float(difference[part].mean()), float(margins[part].mean())) for part in parts)
