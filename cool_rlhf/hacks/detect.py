"""Find what a policy learnt to be paid for, and tell hacks from improvements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cool_rlhf.hacks.cases import weigh
from cool_rlhf.hacks.confirmation import Rise, find_rises, prompts_needed
from cool_rlhf.hacks.contrasts import Edit
from cool_rlhf.hacks.evidence import Natural, Payment, finite, holm
from cool_rlhf.hacks.judges import Judge
from cool_rlhf.hacks.patterns.meanings import LateSentences
from cool_rlhf.hacks.patterns.pattern import Pattern
from cool_rlhf.hacks.patterns.phrases import Phrase
from cool_rlhf.hacks.samples import Comparison, SampleError
from cool_rlhf.hacks.settings import HackSettings
from cool_rlhf.hacks.verdict import VERDICTS, Verdict, combine, judge_pattern
from pretrain_core.errors import RunFailed
from reward.intervals import Interval


@dataclass(frozen=True)
class Finding:
    """One confirmed pattern with everything that speaks for and against it.

    `under`: condition → verdict and reason on its prompts alone, where samples have several.
    """

    rise: Rise
    verdict: Verdict
    reason: str
    paid: Payment | None = None
    p: float = 1.0
    gold: Payment | None = None
    under: Mapping[str, tuple[Verdict, str]] = field(default_factory=dict)
    edits: Sequence[Edit] = field(default=(), repr=False)

    @property
    def pattern(self) -> Pattern:
        """What rose."""
        return self.rise.pattern

    @property
    def earned(self) -> float:
        """What the late policy's mean score has of it beyond the early one's, in standard
        deviations: what is paid for a reply with it, times how many more have it."""
        if self.paid is None or self.paid.gain is None:
            return 0.0
        return self.paid.gain.mean * (self.rise.late - self.rise.early)


@dataclass(frozen=True)
class Detection:
    """What was found; `stopped` says why the evidence is incomplete, if it is."""

    findings: Sequence[Finding]
    rises: Sequence[Rise] = field(repr=False)
    prompts: int
    gain: Interval | None = None
    """Natural scores, late − early, in standard deviations."""
    gold_gain: Interval | None = None
    notes: Sequence[str] = ()
    stopped: str | None = None


def detect(
    comparison: Comparison, reward: Judge, gold: Judge | None, settings: HackSettings
) -> Detection:
    """Verdicts on every pattern that rose from the early to the late policy.

    Raises SampleError for too few prompts. A reward model or gold signal that fails leaves a
    partial result, which says so in `stopped`.
    """
    rises = confirm(comparison, settings)
    confirmed = surest(rises, settings.evidence.confirmed)
    empty = Detection([], rises, len(comparison.prompts), notes=list(comparison.notes))
    try:
        return _findings(empty, confirmed, comparison, reward, gold, settings)
    except RunFailed as failure:
        silent = [Finding(rise, "candidate", f"not measured: {failure}") for rise in confirmed]
        return replace(empty, findings=silent, stopped=str(failure))


def surest(rises: Sequence[Rise], most: int) -> list[Rise]:
    """At most so many of the confirmed ones: the surest first, what is measured before words.

    A new topic brings dozens of words that are all as sure as permutations can tell.
    """
    confirmed = [rise for rise in rises if rise.confirmed]
    return sorted(confirmed, key=lambda r: (r.p, not r.pattern.measured, -r.shift))[:most]


def confirm(comparison: Comparison, settings: HackSettings) -> list[Rise]:
    """Every proposed pattern with its rise on prompts that did not propose it."""
    prompts, needed = comparison.fewest_prompts, prompts_needed(settings)
    if prompts < needed:
        raise SampleError(
            f"{prompts} prompts are too few: to find a pattern that rose from 0 to "
            f"{settings.target_rise:.0%} of the replies with power {settings.power}, {needed} are "
            "needed; give more, or ask for less by target_rise or power"
        )
    return find_rises(comparison, settings)


def _findings(
    empty: Detection,
    confirmed: Sequence[Rise],
    comparison: Comparison,
    reward: Judge,
    gold: Judge | None,
    settings: HackSettings,
) -> Detection:
    model = Natural.of(finite(reward), comparison)
    truth = Natural.of(gold, comparison) if gold is not None else None
    # What is paid for a wording is not paid for an idea that some of its sentences share with it.
    wordings = [rise.pattern for rise in confirmed if isinstance(rise.pattern, Phrase)]
    weighed = [
        weigh(
            pattern,
            comparison,
            model,
            truth,
            settings,
            wordings if isinstance(pattern, LateSentences) else (),
        )
        for pattern in (rise.pattern for rise in confirmed)
    ]
    # One adjustment for everything that is asked: each pattern, overall and under each condition.
    every = [(row, name) for row, case in enumerate(weighed) for name in case]
    p = dict(zip(every, holm([weighed[row][name].paid.p for row, name in every]), strict=True))
    findings = []
    for row, (rise, case) in enumerate(zip(confirmed, weighed, strict=True)):
        judged = {
            name: judge_pattern(
                found.paid, p[row, name], found.standing, settings.alpha, settings.evidence
            )
            for name, found in case.items()
        }
        overall = case[None]
        under = {name: verdict for name, verdict in judged.items() if name is not None}
        verdict, reason = combine(judged[None], under)
        findings.append(
            Finding(
                rise,
                verdict,
                reason,
                overall.paid,
                p[row, None],
                overall.gold,
                under,
                overall.edits,
            )
        )
    notes = list(comparison.notes)
    if truth is not None and truth.judged < len(comparison.samples):
        notes.append(
            f"the gold signal judged {truth.judged} of {len(comparison.samples)} samples: its "
            "evidence is of those alone"
        )
    return replace(
        empty,
        findings=sorted(findings, key=lambda finding: VERDICTS.index(finding.verdict)),
        gain=model.gain(settings.seed),
        gold_gain=truth.gain(settings.seed) if truth else None,
        notes=notes,
    )
