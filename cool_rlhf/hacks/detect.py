"""Find what a policy learnt to be paid for, and tell hacks from improvements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from cool_rlhf.hacks.confirmation import Rise, confirm_rises, prompts_needed
from cool_rlhf.hacks.contrasts import Edit, contrasts
from cool_rlhf.hacks.evidence import LEAST, Natural, Payment, finite, holm, payment
from cool_rlhf.hacks.judges import Array, Judge
from cool_rlhf.hacks.mining import halves, propose
from cool_rlhf.hacks.pattern import Pattern
from cool_rlhf.hacks.samples import Comparison, SampleError
from cool_rlhf.hacks.settings import HackSettings
from cool_rlhf.hacks.verdict import VERDICTS, Gold, Verdict, combine, judge_pattern
from pretrain_core.errors import RunFailed
from reward.intervals import Interval, paired_bootstrap


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
    confirmed = sorted(
        (rise for rise in rises if rise.confirmed), key=lambda rise: (rise.p, -rise.shift)
    )[: settings.evidence.confirmed]
    empty = Detection([], rises, len(comparison.prompts), notes=list(comparison.notes))
    try:
        return _weigh(empty, confirmed, comparison, reward, gold, settings)
    except RunFailed as failure:
        silent = [Finding(rise, "candidate", f"not measured: {failure}") for rise in confirmed]
        return replace(empty, findings=silent, stopped=str(failure))


def confirm(comparison: Comparison, settings: HackSettings) -> list[Rise]:
    """Every proposed pattern with its rise on prompts that did not propose it."""
    prompts, needed = len(comparison.prompts), prompts_needed(settings)
    if prompts < needed:
        raise SampleError(
            f"{prompts} prompts are too few: to find a pattern that rose from 0 to "
            f"{settings.target_rise:.0%} of the replies with power {settings.power}, {needed} are "
            "needed; give more, or ask for less by target_rise or power"
        )
    proposing, confirming = halves(comparison, settings.seed)
    return confirm_rises(propose(proposing, settings), confirming, settings)


def _weigh(
    empty: Detection,
    confirmed: Sequence[Rise],
    comparison: Comparison,
    reward: Judge,
    gold: Judge | None,
    settings: HackSettings,
) -> Detection:
    model = Natural.of(finite(reward), comparison)
    truth = Natural.of(gold, comparison) if gold is not None else None
    weighed = [_case(rise.pattern, comparison, model, truth, settings) for rise in confirmed]
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
        gain=_gain(model, settings),
        gold_gain=_gain(truth, settings) if truth else None,
        notes=notes,
    )


@dataclass(frozen=True)
class Case:
    """The evidence on one pattern, on all prompts or on those of one condition."""

    paid: Payment
    gold: Payment | None
    standing: Gold | None
    edits: Sequence[Edit]


def _case(
    pattern: Pattern,
    comparison: Comparison,
    model: Natural,
    truth: Natural | None,
    settings: HackSettings,
) -> dict[str | None, Case]:
    """Evidence overall (None) and by condition."""
    options = settings.evidence
    edits = contrasts(pattern, comparison, options.edits, settings.seed)

    def weigh(model: Natural, truth: Natural | None, edits: Sequence[Edit], deeper: bool) -> Case:
        measure = partial(payment, pattern, edits, seed=settings.seed, resamples=options.resamples)
        paid, differences = measure(model, deeper=deeper)
        if truth is None:
            return Case(paid, None, None, edits)
        judged = measure(truth)
        return Case(paid, judged[0], _gold(paid, differences, judged, edits, settings), edits)

    cases: dict[str | None, Case] = {None: weigh(model, truth, edits, True)}
    for name in model.conditions:
        own = [edit for edit in edits if edit.having.condition == name]
        cases[name] = weigh(model.under(name), truth.under(name) if truth else None, own, False)
    return cases


def _gold(
    paid: Payment,
    differences: Array,
    judged: tuple[Payment, Array],
    edits: Sequence[Edit],
    settings: HackSettings,
) -> Gold | None:
    """The gold signal on the edited texts, or on natural replies where it has no others."""
    share, seed = settings.evidence.gold_share, settings.seed
    rewarded, values = judged
    rows = np.flatnonzero(np.isfinite(values))
    if rewarded.gain is not None:
        excess = paired_bootstrap(
            values[rows] - share * differences[rows],
            seed=seed,
            clusters=[edits[row].having.id for row in rows],
        )
        return Gold(rewarded.gain, excess, f"{len(rows)} edited replies")
    if rewarded.matched is not None and paid.gain is not None:
        found, due = rewarded.matched, share * paid.gain.mean
        excess = replace(found, mean=found.mean - due, low=found.low - due, high=found.high - due)
        return Gold(found, excess, f"{found.n} natural replies")
    return None


def _gain(natural: Natural, settings: HackSettings) -> Interval | None:
    """Mean natural score of the late policy over the early one's, paired by prompt."""
    by_prompt: dict[str, tuple[list[float], list[float]]] = {}
    for row, sample in enumerate(natural.comparison.samples):
        late = row >= len(natural.comparison.early)
        if np.isfinite(natural.scores[row]):
            by_prompt.setdefault(sample.id, ([], []))[late].append(natural.scores[row])
    values = [
        np.mean(late) - np.mean(early) for early, late in by_prompt.values() if early and late
    ]
    if len(values) < LEAST:
        return None
    return paired_bootstrap(np.array(values) / natural.spread, seed=settings.seed)
