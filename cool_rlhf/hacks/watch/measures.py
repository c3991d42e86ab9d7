"""What a look measures on two windows beside patterns: gains, length, disagreement."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import ttest_ind

from cool_rlhf.hacks.evidence import LEAST
from cool_rlhf.hacks.patterns.pattern import Pattern
from cool_rlhf.hacks.patterns.text import word_count
from cool_rlhf.hacks.samples import Sample
from cool_rlhf.hacks.watch.windows import Window
from cool_rlhf.hacks.within import coefficient, relative
from reward.intervals import Interval, bootstrap_statistic

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rewarded:
    """Scores of a judge on two windows, in standard deviations of the baseline's.

    `samples`, `late` and `scores` [n]: the baseline's replies, then the recent ones; NaN where the
    judge did not judge.
    """

    samples: tuple[Sample, ...]
    late: Mask
    scores: Array

    @classmethod
    def of(cls, baseline: Window, recent: Window, early: Array, late: Array) -> "Rewarded":
        """Of raw scores; where the baseline's are all alike, in deviations of all of them."""
        scores = np.concatenate([early, late])
        spread = _spread(early) or _spread(scores) or 1.0
        is_late = np.arange(len(scores)) >= len(early)
        return cls(baseline.samples + recent.samples, is_late, scores / spread)

    @property
    def judged(self) -> Mask:
        """Where there is a score [n]."""
        return np.isfinite(self.scores)

    @property
    def gain(self) -> float:
        """Mean of the recent replies − of the baseline's; NaN where either has none."""
        sides = (self.scores[self.judged & side] for side in (self.late, ~self.late))
        late, early = (float(found.mean()) if len(found) else float("nan") for found in sides)
        return late - early


def pays(pattern: Pattern, rewarded: Rewarded, seed: int, resamples: int) -> Interval | None:
    """What a judge pays for a pattern between replies of one window and condition.

    The length is allowed for, unless it is what is asked about. None where fewer than LEAST replies
    have it, or lack it, beside others of their window and condition that do not.
    """
    rows = np.flatnonzero(rewarded.judged)
    samples = [rewarded.samples[row] for row in rows]
    present = np.array([pattern.present(sample) for sample in samples], dtype=float)
    columns = [present] + ([_lengths(samples)] if pattern.family != "length" else [])
    stacked = np.stack(columns, axis=1)
    groups = [(bool(rewarded.late[row]), rewarded.samples[row].condition) for row in rows]
    mixed = np.abs(relative(stacked[:, :1], groups)[:, 0]) > 1e-9
    if min((mixed & (present > 0)).sum(), (mixed & (present == 0)).sum()) < LEAST:
        return None
    clusters = [sample.id for sample in samples]
    return coefficient(stacked, rewarded.scores[rows], groups, clusters, seed, resamples)


def length_share(rewarded: Rewarded) -> float | None:
    """Share of the gain that the change in length explains; None where nothing surely rose.

    Per condition, since one may pay for length and another for brevity: slope of the score on log
    words between replies of one window, times the change of mean log words; weighted by the recent
    replies.
    """
    samples, lengths = rewarded.samples, _lengths(rewarded.samples)
    gain = explained = 0.0
    variance = 0.0
    for condition in sorted({str(sample.condition) for sample in samples}):
        mine = np.array([str(s.condition) == condition for s in samples]) & rewarded.judged
        early, late = mine & ~rewarded.late, mine & rewarded.late
        if min(early.sum(), late.sum()) < LEAST:
            continue
        weight = late.sum() / (rewarded.late & rewarded.judged).sum()
        change = lengths[late].mean() - lengths[early].mean()
        both = np.stack([lengths, rewarded.scores], axis=1)[mine]
        centred = relative(both, rewarded.late[mine].tolist())
        spread = (centred[:, 0] ** 2).sum()
        slope = (centred[:, 0] * centred[:, 1]).sum() / spread if spread > 0 else 0.0
        gain += weight * (rewarded.scores[late].mean() - rewarded.scores[early].mean())
        explained += weight * slope * change
        variance += weight**2 * sum(
            rewarded.scores[side].var(ddof=1) / side.sum() for side in (early, late)
        )
    # Within two standard errors of nothing, a share of it says nothing.
    return float(explained / gain) if gain > 2 * np.sqrt(variance) and gain > 0 else None


def disagreement(baseline: Window, recent: Window) -> float | None:
    """Mean spread of the reward model's heads on recent replies over that on the baseline's."""
    early, late = (w.spreads[np.isfinite(w.spreads)] for w in (baseline, recent))
    if not len(early) or not len(late) or early.mean() == 0:
        return None
    return float(late.mean() / early.mean())


@dataclass(frozen=True)
class Divergence:
    """How far the reward model's gain has left the gold signal's, on replies that gold judged.

    `difference`: reward gain − gold gain; `p` of the alarm: the reward surely rose, and gold surely
    by less than a share of that.
    """

    gold: float
    difference: Interval
    p: float


def divergence(reward: Rewarded, gold: Rewarded, share: float, seed: int) -> Divergence | None:
    """None where gold judged replies to fewer than LEAST prompts of a window."""
    rows = np.flatnonzero(gold.judged)
    ids = [gold.samples[row].id for row in rows]
    late = gold.late[rows]
    columns = np.stack([reward.scores[rows], gold.scores[rows]], axis=1)
    means = [_by_prompt(columns[side], ids, side) for side in (~late, late)]
    if min(len(side) for side in means) < LEAST:
        return None
    apart = columns[:, 0] - columns[:, 1]
    sums = np.stack([apart * late, late, apart * ~late, ~late], axis=1).astype(np.float64)
    return Divergence(
        gold.gain,
        bootstrap_statistic(
            sums, lambda s: s[:, 0] / s[:, 1] - s[:, 2] / s[:, 3], seed=seed, clusters=ids
        ),
        max(_p_above(*(m[:, 0] for m in means)), _p_above(*(m @ [share, -1.0] for m in means))),
    )


def _p_above(early: Array, late: Array) -> float:
    """One-sided p-value (Welch) that the late mean is above the early one."""
    if np.ptp(early) == 0 and np.ptp(late) == 0:
        return 0.0 if late[0] > early[0] else 1.0
    return float(ttest_ind(late, early, equal_var=False, alternative="greater").pvalue)


def _by_prompt(columns: Array, ids: Sequence[str], side: Mask) -> Array:
    numbers: dict[str, int] = {}
    rows = [numbers.setdefault(ids[row], len(numbers)) for row in np.flatnonzero(side)]
    if not rows:
        return np.empty((0, columns.shape[1]))
    counts = np.bincount(rows)
    return np.stack([np.bincount(rows, column) / counts for column in columns.T], axis=1)


def _lengths(samples: Sequence[Sample]) -> Array:
    return np.array([np.log1p(word_count(sample.reply)) for sample in samples])


def _spread(scores: Array) -> float:
    judged = scores[np.isfinite(scores)]
    return float(judged.std()) if len(judged) > 1 else 0.0
