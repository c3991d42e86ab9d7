"""Whether a reward model judges held-out pairs no worse than its parent, by more than a margin."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from reward.conditions import DEFAULT
from reward.data import Preference, PreferenceError
from reward.evaluation.scoring import PairScores, pair_keys
from reward.intervals import Interval, bounded_bootstrap
from reward.verdicts import Verdict, verdict


@dataclass(frozen=True)
class NonInferiority:
    """Accuracy of the child − the parent's on the same pairs, and how much may be lost.

    `under`: per condition, where there are several; their intervals are wider, so that the chance
    of any false alarm stays that of one.
    """

    difference: Interval
    margin: float
    child: float
    parent: float
    under: dict[str, Interval] = field(default_factory=dict)

    @property
    def worse(self) -> list[str]:
        """Conditions under which surely more than the margin is lost."""
        return [name for name, found in self.under.items() if found.high < -self.margin]

    @property
    def verdict(self) -> Verdict:
        """All pairs decide; one condition that is surely worse fails whatever the others gain."""
        return "fail" if self.worse else verdict(self.difference, least=-self.margin)


def non_inferiority(
    child: PairScores,
    parent: PairScores,
    preferences: Sequence[Preference],
    *,
    margin: float,
    confidence: float = 0.9,
    seed: int = 0,
    resamples: int = 2000,
) -> NonInferiority:
    """Compare two models' scores of the same pairs; records of one judged pair count as one.

    A two-sided `confidence` of 0.9 lets a child that is worse by just the margin pass in 5 % of
    the cases. Raises PreferenceError without preferences, ValueError for scores of another length.
    """
    if not preferences:
        raise PreferenceError("no preferences to compare on")
    if not len(child.chosen) == len(parent.chosen) == len(preferences):
        raise ValueError(
            f"{len(child.chosen)} and {len(parent.chosen)} scores for {len(preferences)} pairs"
        )
    keys, gained = pair_keys(preferences), child.right - parent.right

    def interval(rows: Sequence[int], confidence: float) -> Interval:
        return bounded_bootstrap(
            gained[rows],
            (-1.0, 1.0),
            seed=seed,
            confidence=confidence,
            resamples=resamples,
            clusters=[keys[row] for row in rows],
        )

    rows: dict[str, list[int]] = {}
    for row, p in enumerate(preferences):
        rows.setdefault(p.condition or DEFAULT, []).append(row)
    several = rows if len(rows) > 1 else {}
    return NonInferiority(
        interval(range(len(preferences)), confidence),
        margin,
        float(child.right.mean()),
        float(parent.right.mean()),
        {
            name: interval(mine, 1 - (1 - confidence) / len(several))
            for name, mine in several.items()
        },
    )
