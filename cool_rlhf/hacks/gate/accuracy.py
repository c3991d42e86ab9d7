"""Does the child rank old pairs, and legitimate uses of the pattern, as well as its parent?"""

from collections.abc import Sequence

from cool_rlhf.hacks.gate.report import Outcome, would_decide
from cool_rlhf.hacks.gate.settings import GateSettings
from reward.data import Preference
from reward.evaluation.non_inferiority import non_inferiority
from reward.evaluation.scoring import PairScores

OLD, LEGITIMATE = "old accuracy", "legitimate uses"


def old_accuracy(
    pairs: Sequence[Preference], child: PairScores, parent: PairScores, settings: GateSettings
) -> Outcome:
    """Accuracy on old held-out pairs must surely not be lower by more than `margin`."""
    forgot = "the child forgot: replay more old pairs, or train less"
    return _not_lower(OLD, pairs, child, parent, settings.margin, settings, forgot)


def legitimate_accuracy(
    pairs: Sequence[Preference], child: PairScores, parent: PairScores, settings: GateSettings
) -> Outcome:
    """Pairs whose better side rightly has the pattern must keep their rank."""
    hit = "rightful uses of the pattern lose: add such pairs to the replay, or narrow the pattern"
    margin = settings.legitimate_margin
    return _not_lower(LEGITIMATE, pairs, child, parent, margin, settings, hit)


def no_legitimate(settings: GateSettings) -> Outcome:
    """The outcome where there is no such pair."""
    return Outcome(
        LEGITIMATE,
        "not run",
        "no old pair has the pattern on its better side alone",
        "give pairs in which it is right, or say require_legitimate=false if it never is",
        required=settings.require_legitimate,
    )


def _not_lower(
    name: str,
    pairs: Sequence[Preference],
    child: PairScores,
    parent: PairScores,
    margin: float,
    settings: GateSettings,
    advice: str,
) -> Outcome:
    found = non_inferiority(
        child,
        parent,
        pairs,
        margin=margin,
        confidence=settings.confidence,
        seed=settings.seed,
        resamples=settings.resamples,
    )
    difference = found.difference
    reason = advice if found.verdict == "fail" else ""
    if found.worse:
        reason = f"surely worse under {', '.join(found.worse)}: {advice}"
    if found.verdict == "undecided":
        reason = would_decide(difference, "records", least=-margin)
    return Outcome(
        name,
        found.verdict,
        f"accuracy {found.child:.3f}, the parent's {found.parent:.3f}, on {difference.n} records "
        f"of {difference.clusters} pairs: difference {difference}; at most {margin} may be lost",
        reason,
        measured={"difference": difference, **found.under},
    )
