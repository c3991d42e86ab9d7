"""Does the child rank old pairs, and legitimate uses of the pattern, as well as its parent?"""

from collections.abc import Sequence

from cool_rlhf.hacks.gate.report import Outcome, would_decide
from cool_rlhf.hacks.gate.settings import GateSettings
from reward.data import Preference
from reward.evaluation.non_inferiority import NonInferiority, non_inferiority
from reward.evaluation.scoring import PairScores

OLD, LEGITIMATE = "old accuracy", "legitimate uses"


def old_accuracy(
    pairs: Sequence[Preference], child: PairScores, parent: PairScores, settings: GateSettings
) -> Outcome:
    """Accuracy on old held-out pairs must surely not be lower by more than `margin`."""
    found = non_inferiority(
        child, parent, pairs, margin=settings.margin, confidence=settings.confidence
    )
    advice = "the child forgot: replay more old pairs, or train less"
    return _outcome(OLD, None, found, "the parent's", advice)


def legitimate_accuracy(
    hack: str | None,
    pairs: Sequence[Preference],
    child: PairScores,
    parent: PairScores,
    bonus: float,
    settings: GateSettings,
) -> Outcome:
    """Pairs whose better side rightly has the pattern must keep their rank.

    What the parent pays for the pattern, `bonus` in raw scores, is taken off first: a pair that it
    ranks rightly by that alone is lost by every cure.
    """
    fair = PairScores(parent.chosen - bonus, parent.rejected)
    found = non_inferiority(
        child, fair, pairs, margin=settings.legitimate_margin, confidence=settings.confidence
    )
    advice = "rightful uses of the pattern lose: replay such pairs, or train less"
    against = f"the parent's without the {bonus:.3f} that it pays for the pattern"
    return _outcome(LEGITIMATE, hack, found, against, advice)


def no_legitimate(hack: str, settings: GateSettings) -> Outcome:
    """The outcome where there is no such pair."""
    return Outcome(
        LEGITIMATE,
        "not run",
        "no pair has the pattern on its better side alone",
        "give pairs in which it is right, or say require_legitimate=false if it never is",
        hack,
        required=settings.require_legitimate,
    )


def _outcome(
    name: str, hack: str | None, found: NonInferiority, against: str, advice: str
) -> Outcome:
    difference = found.difference
    reason = advice if found.verdict == "fail" else ""
    if found.worse:
        reason = f"surely worse under {', '.join(found.worse)}: {advice}"
    if found.verdict == "undecided":
        reason = would_decide(difference, "records", least=-found.margin)
    return Outcome(
        name,
        found.verdict,
        f"accuracy {found.child:.3f}, {against} {found.parent:.3f}, on {difference.n} records of "
        f"{difference.clusters} pairs: difference {difference}; at most {found.margin} may be lost",
        reason,
        hack,
        {"difference": difference, **found.under},
    )
