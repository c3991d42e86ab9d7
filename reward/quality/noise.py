"""Label noise by cross-fold margins: which labels does a light model, trained without them, doubt?

The light model is a logistic regression on the difference of two replies. It sees words, pairs of
words, pieces of words and length, apart for each condition; or, given a reward model, that model's
frozen representations. It sees no facts and no logic: where preferences turn on those, it is blind
and says so. Labels that contradict even its sure margins are flipped, or decided by what it cannot
see: a pair it doubts is a pair to look at, not a wrong label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pretrain_core.draws import rng
from pretrain_core.errors import InputError
from reward.intervals import Interval, paired_bootstrap
from reward.preference import Preference, prompt_keys
from reward.quality.pair_features import Array, state_differences, text_differences

if TYPE_CHECKING:
    from reward.model import RewardModel

Verdict = Literal["suspected", "none seen", "undecided", "blind"]

STRENGTH = 4.0  # inverse of the L2 penalty
CLAIM, CLEAN = 0.01, 0.05  # noise is claimed above the first, ruled out below the second
RESAMPLES = 400
BINS = 256


class NoiseError(InputError):
    """Too few prompts for the folds asked for."""


@dataclass(frozen=True)
class NoiseReport:
    """Held-out margins [pairs] of the light model and what they say about the labels.

    `rate`: estimated share of flipped labels, None where the model is blind (no better than
    chance). `doubt`: probability of each label being flipped, at that rate. `suspects`: indices by
    rising margin.
    """

    folds: int
    accuracy: Interval
    rate: Interval | None
    verdict: Verdict
    margins: Array
    doubt: Array
    suspects: list[int]

    def sentence(self) -> str:
        """The verdict in words."""
        seen = f"the light model ranks {self.accuracy} of held-out pairs as labelled"
        if self.rate is None:
            return f"{seen}: blind to this preference, no statement about the labels"
        said = {
            "suspected": "flipped, or decided by what this model cannot see; look at the suspects",
            "none seen": "no label noise seen",
            "undecided": "too little is seen to claim noise or to rule it out",
        }[self.verdict]
        return f"{seen}; labels against its sure margins: {self.rate}: {said}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able summary, without the margins."""
        return {
            "folds": self.folds,
            "accuracy": vars(self.accuracy),
            "rate": None if self.rate is None else vars(self.rate),
            "verdict": self.verdict,
            "sentence": self.sentence(),
        }


def label_noise(
    preferences: Sequence[Preference],
    *,
    folds: int = 5,
    seed: int = 0,
    model: "RewardModel | None" = None,
    confidence: float = 0.95,
) -> NoiseReport:
    """Train on k − 1 folds of prompts, judge the held-out one, and estimate the rate of flips.

    With `model`, on its frozen representations, which must not come from training on these pairs.
    Raises NoiseError for fewer prompts than twice the folds.
    """
    keys = np.array(prompt_keys(preferences))
    prompts = int(keys.max()) + 1 if len(keys) else 0
    if folds < 2 or prompts < 2 * folds:
        raise NoiseError(f"{prompts} prompts in {folds} folds: at least 2 folds of 2 are needed")
    features = (
        text_differences(preferences) if model is None else state_differences(model, preferences)
    )
    margins = cross_fold_margins(features, keys, folds, seed)
    accuracy = paired_bootstrap(
        (margins > 0).astype(float), seed=seed, confidence=confidence, clusters=keys.tolist()
    )
    order = np.argsort(margins, kind="stable").tolist()
    if accuracy.low <= 0.5:
        return NoiseReport(
            folds, accuracy, None, "blind", margins, np.full(len(keys), np.nan), order
        )
    rate, scale = flip_rate(margins, keys, seed, confidence)
    ranked = _sigmoid(scale * margins)
    flipped = rate.mean * (1 - ranked)
    doubt = flipped / np.maximum(flipped + (1 - rate.mean) * ranked, 1e-300)
    verdict: Verdict = "undecided"
    if rate.low > CLAIM:
        verdict = "suspected"
    elif rate.high <= CLEAN:
        verdict = "none seen"
    return NoiseReport(folds, accuracy, rate, verdict, margins, doubt, order)


def cross_fold_margins(features: Any, keys: npt.NDArray[Any], folds: int, seed: int) -> Array:
    """Margins [pairs] by models that never saw the pair's prompt; positive: as labelled.

    `features` [pairs, d] (dense or sparse) are chosen minus rejected, `keys` [pairs] the prompts.
    """
    from sklearn.linear_model import LogisticRegression

    prompts = int(keys.max()) + 1
    fold_of = rng(seed, "noise/folds").permutation(prompts) % folds
    # Every row says "chosen minus rejected wins"; a classifier needs both answers, so half of the
    # rows are turned round.
    signs = np.where(rng(seed, "noise/signs").random(len(keys)) < 0.5, -1.0, 1.0)
    margins = np.zeros(len(keys))
    for fold in range(folds):
        held_out = fold_of[keys] == fold
        rows = np.flatnonzero(~held_out)
        turned = signs[rows]
        if len(set(turned.tolist())) < 2:
            turned = np.where(np.arange(len(rows)) % 2, 1.0, -1.0)
        towards = features[rows]
        sparse = hasattr(towards, "tocsr")
        towards = towards.multiply(turned[:, None]).tocsr() if sparse else towards * turned[:, None]
        fitted = LogisticRegression(C=STRENGTH, fit_intercept=False, max_iter=1000)
        fitted.fit(towards, turned)
        margins[held_out] = features[np.flatnonzero(held_out)] @ fitted.coef_[0]
    return margins


def flip_rate(
    margins: Array, keys: npt.NDArray[Any], seed: int, confidence: float = 0.95
) -> tuple[Interval, float]:
    """(rate of flipped labels with its interval, scale of the margins), by maximum likelihood.

    Model: P(as labelled | margin m) = ε + (1 − 2ε)·σ(a·m). However sure the model is, a share ε of
    labels contradicts it; an honest but weak model has ε = 0 and a small a. The interval is a
    bootstrap over prompts, never tighter above than as many sure pairs without one flip allow; it
    does not cover the choice of the logistic curve.
    """
    spread = float(np.abs(margins).mean()) or 1.0
    rates = np.linspace(0.0, 0.45, 91)
    scales = np.geomspace(0.05, 50, 70) / spread
    edges = np.unique(np.quantile(margins, np.linspace(0, 1, BINS + 1)[1:-1]))
    place = np.searchsorted(edges, margins)
    bins = int(place.max()) + 1
    counts = np.maximum(np.bincount(place, minlength=bins), 1)
    centres = np.bincount(place, weights=margins, minlength=bins) / counts
    ranked = _sigmoid(centres[:, None] * scales)
    curve = rates[None, :, None] + (1 - 2 * rates[None, :, None]) * ranked[:, None, :]
    log_curve = np.log(np.maximum(curve, 1e-12)).reshape(bins, -1)

    def best(weights: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        return np.argmax(weights @ log_curve, axis=1)

    prompts = int(keys.max()) + 1
    draw = rng(seed, "noise/bootstrap")
    resampled = np.stack(
        [
            np.bincount(
                place,
                weights=draw.multinomial(prompts, np.full(prompts, 1 / prompts))[keys],
                minlength=bins,
            )
            for _ in range(RESAMPLES)
        ]
    )
    found = best(np.bincount(place, minlength=bins)[None].astype(float))[0]
    tail = (1 - confidence) / 2
    low, high = np.quantile(rates[best(resampled) // len(scales)], [tail, 1 - tail])
    rate, scale = float(rates[found // len(scales)]), float(scales[found % len(scales)])
    sure = float(((2 * _sigmoid(scale * margins) - 1) ** 2).mean()) * prompts
    high = max(float(high), 1 - tail ** (1 / max(sure, 1.0)))
    return Interval(rate, float(low), high, len(margins), prompts, confidence), scale


def _sigmoid(x: Array) -> Array:
    result: Array = 0.5 * (1.0 + np.tanh(0.5 * x))
    return result
