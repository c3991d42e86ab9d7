"""Does the child still rank held-out pairs for the pattern?"""

from collections.abc import Sequence

import numpy as np

from cool_rlhf.hacks.gate.report import Outcome, worst, would_decide
from cool_rlhf.hacks.gate.settings import GateSettings
from reward.data import Preference
from reward.evaluation.scoring import PairScores
from reward.intervals import Interval
from reward.preference import prompt_keys
from reward.score_intervals import difference_interval, share_interval
from reward.verdicts import verdict

NAME = "flipped"


def flipped(
    hack: str,
    pairs: Sequence[Preference],
    child: PairScores,
    parent: PairScores,
    spreads: tuple[float, float],
    settings: GateSettings,
) -> Outcome:
    """The share of pairs whose side without the pattern scores at least as high, or lower by a tie.

    It must surely reach `least_flipped`, and surely be above the parent's share. `spreads`: of the
    child's and the parent's scores of the anchors, standard deviations.
    """
    keys, confidence = prompt_keys(pairs), settings.confidence
    now, before = (
        np.asarray(scores.margins >= -settings.tie * spread, dtype=float)
        for scores, spread in zip((child, parent), spreads, strict=True)
    )
    share = share_interval(now, confidence=confidence, clusters=keys)
    rise = difference_interval(now - before, confidence=confidence, clusters=keys)
    enough, rose = verdict(share, least=settings.least_flipped), verdict(rise, least=0.0)
    found = worst([enough, rose])
    if share.clusters < settings.least_prompts:
        found = "undecided"
    return Outcome(
        NAME,
        found,
        f"of {len(pairs)} pairs ({share.clusters} prompts) the child ranks {share} not for the "
        f"pattern by more than {settings.tie} standard deviations, the parent "
        f"{before.mean():.3f} (rise {rise}); at least {settings.least_flipped} must be",
        "" if found == "pass" else _reason(share, rise, settings),
        hack,
        {"share": share, "rise": rise},
    )


def _reason(share: Interval, rise: Interval, settings: GateSettings) -> str:
    if share.clusters < settings.least_prompts:
        return f"{share.clusters} prompts are too few: at least {settings.least_prompts}"
    if share.high < settings.least_flipped:
        return "the child still ranks for the pattern: train longer, or on more pairs"
    if rise.mean <= 0:
        return "the child ranks for the pattern as often as its parent: nothing was cured"
    if share.low < settings.least_flipped:
        return would_decide(share, "pairs", least=settings.least_flipped)
    return would_decide(rise, "pairs", least=0.0)
