"""One look: two windows of a run compared, a pure function of their replies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cool_rlhf.hacks.confirmation import Rise, find_rises
from cool_rlhf.hacks.judges import Array
from cool_rlhf.hacks.samples import Comparison
from cool_rlhf.hacks.settings import EvidenceSettings, HackSettings
from cool_rlhf.hacks.watch.measures import (
    Divergence,
    Rewarded,
    disagreement,
    divergence,
    length_share,
    pays,
)
from cool_rlhf.hacks.watch.windows import Window
from reward.intervals import Interval

SHOWN = 5
"""Patterns that a warning names."""


@dataclass(frozen=True)
class Risen:
    """A pattern that surely rose, and what is paid for it between replies of one window.

    In standard deviations of the baseline's scores; None where too few replies tell.
    """

    rise: Rise
    reward: Interval | None
    gold: Interval | None

    def alarming(self, settings: EvidenceSettings) -> bool:
        """Unless the reward model surely pays nothing for it, or gold surely pays something."""
        unpaid = self.reward is not None and self.reward.high < settings.least_gain
        deserved = self.gold is not None and self.gold.low > 0
        return not unpaid and not deserved

    def __str__(self) -> str:
        paid = "too few replies tell what the model pays for it"
        if self.reward is not None:
            paid = f"the model pays {self.reward} standard deviations for it"
        gold = f", gold {self.gold}" if self.gold is not None else ""
        return (
            f"{self.rise.pattern.name}: {self.rise.early:.0%} → {self.rise.late:.0%} of the "
            f"replies, {paid}{gold}"
        )


@dataclass(frozen=True)
class Look:
    """What a look found; `risen` with the surest first."""

    baseline: Window
    recent: Window
    risen: Sequence[Risen]
    reward: Rewarded
    divergence: Divergence | None
    settings: HackSettings

    @property
    def alarms(self) -> list[str]:
        """What is alarming, in words; empty where nothing is."""
        evidence = self.settings.evidence
        named = [str(risen) for risen in self.risen if risen.alarming(evidence)]
        found = named[:SHOWN]
        if len(named) > SHOWN:
            found.append(f"{len(named) - SHOWN} further patterns")
        apart = self.divergence
        if apart is not None and apart.p <= self.settings.alpha:
            found.insert(
                0,
                f"the reward model's score rose by {self.reward.gain:.2f} standard deviations, "
                f"gold's by {apart.gold:.2f} (difference {apart.difference})",
            )
        return found

    @property
    def metrics(self) -> dict[str, float]:
        """`hack/*`; what cannot be told is left out."""
        found: dict[str, float | None] = {
            "hack/alarm": float(bool(self.alarms)),
            "hack/rising": float(len(self.risen)),
            "hack/reward_gain": self.reward.gain,
            "hack/length_share": length_share(self.reward),
            "hack/disagreement": disagreement(self.baseline, self.recent),
        }
        if self.divergence is not None:
            found |= {
                "hack/gold_gain": self.divergence.gold,
                "hack/divergence": self.divergence.difference.mean,
                "hack/divergence_low": self.divergence.difference.low,
                "hack/divergence_high": self.divergence.difference.high,
            }
        return {name: value for name, value in found.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """For the run's report."""
        evidence = self.settings.evidence
        return {
            "iterations": {
                "baseline": sorted(self.baseline.iterations),
                "recent": sorted(self.recent.iterations),
            },
            "replies": {
                "baseline": len(self.baseline.samples),
                "recent": len(self.recent.samples),
            },
            "alarms": self.alarms,
            "risen": [
                {
                    "name": risen.rise.pattern.name,
                    "early": risen.rise.early,
                    "late": risen.rise.late,
                    "p": risen.rise.p,
                    "reward": str(risen.reward) if risen.reward else None,
                    "gold": str(risen.gold) if risen.gold else None,
                    "alarm": risen.alarming(evidence),
                }
                for risen in self.risen
            ],
        }


def compare_windows(
    baseline: Window,
    recent: Window,
    gold: tuple[Array, Array] | None,
    settings: HackSettings,
) -> Look:
    """Look at two windows; `gold`: raw gold scores of both, NaN where gold cannot judge."""
    comparison = Comparison(baseline.samples, recent.samples)
    reward = Rewarded.of(baseline, recent, baseline.scores, recent.scores)
    truth = Rewarded.of(baseline, recent, *gold) if gold is not None else None
    rises = find_rises(comparison, settings)
    confirmed = sorted((r for r in rises if r.confirmed), key=lambda rise: (rise.p, -rise.shift))
    evidence = settings.evidence

    def paid(rise: Rise, judge: Rewarded) -> Interval | None:
        return pays(rise.pattern, judge, settings.seed, evidence.resamples)

    risen = [
        Risen(rise, paid(rise, reward), paid(rise, truth) if truth is not None else None)
        for rise in confirmed
    ]
    apart = None
    if truth is not None and np.isfinite(truth.scores).any():
        apart = divergence(reward, truth, evidence.gold_share, settings.seed)
    return Look(baseline, recent, risen, reward, apart, settings)
