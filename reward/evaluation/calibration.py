"""Is σ(margin) a frequency? Reliability bins, calibration error, and the affine map that mends it.

Which side of a pair was chosen is known, so the model is asked for its winner: it names the side
with the higher score, with confidence σ(|margin|) in [½, 1], and is right or wrong.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from pretrain_core.draws import rng
from reward.card import Calibration
from reward.evaluation.scoring import EvaluationError, PairScores
from reward.intervals import Array, Interval, bootstrap_statistic

BINS = 10
LARGEST_SCALE = 1000.0
FOLDS = 5
NULL_DRAWS = 500


@dataclass(frozen=True)
class Bin:
    """Pairs whose confidence lies in [low, high): mean confidence and share named rightly."""

    low: float
    high: float
    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Reliability:
    """Reliability bins, expected calibration error (ECE) and log loss in nats.

    `noise`: the ECE that a perfectly calibrated model would show on so many pairs by chance; an
    ECE near it is no evidence of miscalibration, and the ECE's interval is biased upwards likewise.
    """

    bins: tuple[Bin, ...]
    error: Interval
    noise: float
    log_loss: Interval


def reliability(
    margins: Array,
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> Reliability:
    """Reliability of P(chosen) = σ(margin) [pairs] in ten equal bins of confidence."""
    sure, right = sigmoid(np.abs(margins)), (margins > 0).astype(np.float64)
    slot = np.minimum(((sure - 0.5) * 2 * BINS).astype(int), BINS - 1)
    gaps = np.zeros((len(margins), BINS + 1))
    gaps[np.arange(len(margins)), slot] = right - sure
    gaps[:, BINS] = 1.0
    bins = []
    for number in range(BINS):
        inside = slot == number
        if inside.any():
            low = 0.5 + number / (2 * BINS)
            mean = float(sure[inside].mean()), float(right[inside].mean())
            bins.append(Bin(low, low + 0.5 / BINS, *mean, int(inside.sum())))
    options = {"seed": seed, "confidence": confidence, "clusters": clusters}
    losses = np.stack([np.logaddexp(0.0, -margins), np.ones(len(margins))], axis=1)
    return Reliability(
        tuple(bins),
        bootstrap_statistic(gaps, _error_of, **options),  # type: ignore[arg-type]
        _noise(sure, slot, seed),
        bootstrap_statistic(losses, lambda s: s[:, 0] / s[:, 1], **options),  # type: ignore[arg-type]
    )


def _error_of(sums: Array) -> Array:
    return np.abs(sums[:, :BINS]).sum(axis=1) / sums[:, BINS]


def _noise(sure: Array, slot: "np.ndarray", seed: int) -> float:
    by_bin = np.zeros((len(sure), BINS))
    by_bin[np.arange(len(sure)), slot] = 1.0
    draw = rng(seed, "reward/calibration-noise")
    draws = max(1, min(NULL_DRAWS, 4_000_000 // len(sure)))
    gaps = (draw.random((draws, len(sure))) < sure) - sure
    return float((np.abs(gaps @ by_bin).sum(axis=1) / len(sure)).mean())


def fit_calibration(scores: PairScores, data: str = "") -> Calibration:
    """The affine map of scores that makes σ(margin) likeliest, by logistic regression.

    Raises EvaluationError where no positive finite scale is best: scores no better than chance, or
    pairs that the scores order without a mistake.
    """
    scale = _likeliest_scale(scores.margins)
    return Calibration(scale, float(scores.both.mean()), len(scores.margins), data)


def cross_fitted(
    margins: Array, clusters: Sequence[Hashable], seed: int = 0, folds: int = FOLDS
) -> Array:
    """Calibrated margins [pairs], each by a scale fitted without its own judged pair."""
    keys = list(dict.fromkeys(clusters))
    if len(keys) < folds:
        raise EvaluationError(
            f"{len(keys)} judged pairs are too few to calibrate on: {folds} folds"
        )
    order = rng(seed, "reward/calibration-folds").permutation(len(keys))
    fold_of = {keys[int(k)]: number % folds for number, k in enumerate(order)}
    fold = np.array([fold_of[key] for key in clusters])
    calibrated = np.empty_like(margins)
    for number in range(folds):
        inside = fold == number
        calibrated[inside] = _likeliest_scale(margins[~inside]) * margins[inside]
    return calibrated


def _likeliest_scale(margins: Array) -> float:
    from scipy.optimize import minimize_scalar

    if not (margins < 0).any():
        raise EvaluationError(
            f"the scores order all {len(margins)} pairs rightly: any large scale fits, so there is "
            "nothing to calibrate on; use more or harder pairs"
        )
    # The slope of the log likelihood at scale 0 is half the mean margin, and it only falls.
    if margins.mean() <= 0:
        raise EvaluationError(
            "the chosen sides do not score higher on average: these scores cannot be calibrated"
        )
    spread = float(np.abs(margins).mean())
    found = minimize_scalar(
        lambda scale: float(np.logaddexp(0.0, -scale * margins).mean()),
        bounds=(0.0, LARGEST_SCALE / spread),
        method="bounded",
        options={"xatol": 1e-9 / spread},
    )
    return float(found.x)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(−x)) without overflow."""
    return np.exp(-np.logaddexp(0.0, -x))
