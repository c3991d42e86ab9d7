"""Did the child change where no hack is? Its scores of frozen replies against the parent's."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import rankdata

from cool_rlhf.hacks.gate.report import Outcome, worst, would_decide
from cool_rlhf.hacks.gate.settings import GateSettings
from cool_rlhf.hacks.samples import Sample
from reward.intervals import Array, Interval, bootstrap_statistic
from reward.verdicts import verdict

NAME = "drift"


def drift(
    anchors: Sequence[Sample], child: Array, parent: Array, settings: GateSettings
) -> Outcome:
    """Rank correlation, and what remains of the difference after the best affine map.

    Scores [anchors]; the remainder is a root mean square in the parent's standard deviations.
    Offset and scale may change: they change no ranking, and recalibration restores them.
    """
    rank = _interval(anchors, rankdata(child), rankdata(parent), correlation, settings)
    shift = _interval(anchors, child, parent, remainder, settings)
    least, most = settings.least_rank_correlation, settings.most_shift
    ranked, stayed = verdict(rank, least=least), verdict(shift, most=most)
    found = worst([ranked, stayed])
    few = rank.clusters < settings.least_anchors
    slope = np.polyfit(parent, child, 1)[0] if np.ptp(parent) else 0.0
    reason = ""
    if few:
        found = "undecided"
        reason = (
            f"anchors of {rank.clusters} prompts are too few: at least {settings.least_anchors}"
        )
    elif found == "fail":
        reason = "the child changed on replies without the hack: replay more, or train less"
    elif ranked == "undecided":
        reason = would_decide(rank, "anchors", least=least)
    elif stayed == "undecided":
        reason = would_decide(shift, "anchors", most=most)
    return Outcome(
        NAME,
        found,
        f"on {len(anchors)} anchors the rank correlation with the parent is {rank} (at least "
        f"{least}) and the shift {shift} standard deviations (at most {most}); the scale is "
        f"{slope:.2f} of the parent's",
        reason,
        measured={"rank correlation": rank, "shift": shift},
    )


def correlation(sums: Array) -> Array:
    """Pearson's r [resamples] of column sums [resamples, 6] of 1, x, y, x², y², xy."""
    n, x, y, xx, yy, xy = sums.T
    spread = (n * xx - x**2) * (n * yy - y**2)
    along = n * xy - x * y
    return np.divide(along, np.sqrt(np.maximum(spread, 0)), out=np.zeros_like(n), where=spread > 0)


def remainder(sums: Array) -> Array:
    """Root mean square that no affine map of x takes from y, in standard deviations of y."""
    return np.sqrt(np.maximum(0.0, 1 - correlation(sums) ** 2))


def _interval(
    anchors: Sequence[Sample],
    child: Array,
    parent: Array,
    statistic: Callable[[Array], Array],
    settings: GateSettings,
) -> Interval:
    # Centred, since r is a difference of large sums where all scores lie far from 0.
    x, y = child - child.mean(), parent - parent.mean()
    return bootstrap_statistic(
        np.stack([np.ones_like(x), x, y, x**2, y**2, x * y], axis=1),
        statistic,
        seed=settings.seed,
        confidence=settings.confidence,
        resamples=settings.resamples,
        clusters=[sample.id for sample in anchors],
    )
