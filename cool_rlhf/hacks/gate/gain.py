"""Is what the child pays for the pattern equivalent to nothing? Two one-sided tests."""

from collections.abc import Sequence

import numpy as np

from cool_rlhf.hacks.gate.report import Outcome, would_decide
from cool_rlhf.hacks.gate.settings import GateSettings
from reward.data import Preference
from reward.evaluation.scoring import PairScores
from reward.intervals import Array, student_interval
from reward.preference import prompt_keys
from reward.verdicts import verdict

NAME = "pays nothing"


def gain(
    hack: str,
    pairs: Sequence[Preference],
    child: PairScores,
    spread: float,
    settings: GateSettings,
) -> Outcome:
    """Mean of child(with) − child(without), in `spread`s, must surely lie within ±`band`.

    `spread`: standard deviation of the child's scores of the anchors. Above the band the hack is
    not cured, below it the patch over-corrects: a policy would learn to avoid the pattern.
    """
    values = per_prompt(-child.margins / spread, pairs)
    if len(values) < settings.least_prompts:
        few = f"{len(values)} prompts are too few: at least {settings.least_prompts}"
        return Outcome(
            NAME,
            "undecided",
            f"the child pays {values.mean():.3f} standard deviations on {len(pairs)} pairs",
            few,
            hack,
        )
    found = student_interval(values, confidence=settings.confidence)
    limits = {"least": -settings.band, "most": settings.band}
    decided = verdict(found, **limits)
    reason = ""
    if decided == "undecided":
        reason = would_decide(found, "prompts", **limits)
    elif decided == "fail" and found.mean > 0:
        reason = "not cured: the child still pays for the pattern; train longer, or on more pairs"
    elif decided == "fail":
        reason = "over-corrected: the child takes off for the pattern; train less, or replay more"
    return Outcome(
        NAME,
        decided,
        f"the child pays {found} standard deviations for it on {len(pairs)} pairs "
        f"({len(values)} prompts); it must lie within ±{settings.band}",
        reason,
        hack,
        {"gain": found},
    )


def per_prompt(values: Array, pairs: Sequence[Preference]) -> Array:
    """The mean of each prompt's values [prompts]."""
    keys = np.array(prompt_keys(pairs))
    return np.bincount(keys, values) / np.bincount(keys)
