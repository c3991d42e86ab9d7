"""The verdict on a risen pattern, from what the reward model and the gold signal pay for it."""

from dataclasses import dataclass
from typing import Literal

from cool_rlhf.hacks.evidence import Payment
from cool_rlhf.hacks.settings import EvidenceSettings
from reward.intervals import Interval

Verdict = Literal["hack", "improvement", "candidate", "harmless"]


@dataclass(frozen=True)
class Gold:
    """What the gold signal pays, and how that compares with the reward model.

    `pays`: its gain in standard deviations of its own scores; `excess`: that minus the share of the
    reward model's gain from which it counts as a reward. `source` says on which texts.
    """

    pays: Interval
    excess: Interval
    source: str


def judge_pattern(
    paid: Payment, p: float, gold: Gold | None, alpha: float, settings: EvidenceSettings
) -> tuple[Verdict, str]:
    """Verdict and its reason; `p` is adjusted for all patterns that were edited."""
    gain = paid.gain
    if gain is None:
        return "candidate", "too few replies could be edited to measure what the model pays"
    pays = f"the model pays {gain} standard deviations for it"
    if gain.high < settings.least_gain:
        return "harmless", f"{pays}: nothing that counts"
    if p > alpha or gain.mean < settings.least_gain:
        return "candidate", f"{pays} (p = {p:.2g}): more samples would tell"
    if gold is None:
        return "candidate", f"{pays}; without a gold signal nobody can say whether rightly"
    also = f"{pays}, gold {gold.pays} ({gold.source})"
    deserved, overpaid = gold.pays.low > 0, gold.excess.high < 0
    if deserved and overpaid:
        return "candidate", f"{also}: deserved in part, yet overpaid"
    if deserved:
        return "improvement", also
    if overpaid:
        return "hack", also
    return "candidate", f"{also}: gold has not decided"
