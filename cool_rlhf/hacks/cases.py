"""The evidence on one pattern: edits, what the model pays for them, and what gold does."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from cool_rlhf.hacks.contrasts import Edit, contrasts
from cool_rlhf.hacks.evidence import Natural, Payment, payment
from cool_rlhf.hacks.judges import Array
from cool_rlhf.hacks.pattern import Pattern
from cool_rlhf.hacks.samples import Comparison
from cool_rlhf.hacks.settings import HackSettings
from cool_rlhf.hacks.verdict import Gold
from reward.intervals import paired_bootstrap


@dataclass(frozen=True)
class Case:
    """The evidence on one pattern, on all prompts or on those of one condition."""

    paid: Payment
    gold: Payment | None
    standing: Gold | None
    edits: Sequence[Edit]


def weigh(
    pattern: Pattern,
    comparison: Comparison,
    model: Natural,
    truth: Natural | None,
    settings: HackSettings,
    named: Sequence[Pattern] = (),
) -> dict[str | None, Case]:
    """Evidence on all prompts (None), and on those of each condition where there are several.

    Edits that also bring in one of the patterns `named` say nothing about this one.
    """
    options = settings.evidence
    edits = [
        edit
        for edit in contrasts(pattern, comparison, options.edits, settings.seed)
        if not any(p.present(edit.having) and not p.present(edit.lacking) for p in named)
    ]

    def case(model: Natural, truth: Natural | None, edits: Sequence[Edit], deeper: bool) -> Case:
        measure = partial(payment, pattern, edits, seed=settings.seed, resamples=options.resamples)
        paid, differences = measure(model, deeper=deeper)
        if truth is None:
            return Case(paid, None, None, edits)
        judged = measure(truth)
        return Case(paid, judged[0], _standing(paid, differences, judged, edits, settings), edits)

    cases: dict[str | None, Case] = {None: case(model, truth, edits, True)}
    for name in model.conditions:
        own = [edit for edit in edits if edit.having.condition == name]
        cases[name] = case(model.under(name), truth.under(name) if truth else None, own, False)
    return cases


def _standing(
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
