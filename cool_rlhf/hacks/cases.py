"""The evidence on one pattern: edits, what the model pays for them, and what gold does."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from cool_rlhf.hacks.contrasts import Edit, contrasts
from cool_rlhf.hacks.evidence import LEAST, Natural, Payment, payment
from cool_rlhf.hacks.judges import Array
from cool_rlhf.hacks.patterns.pattern import Pattern
from cool_rlhf.hacks.samples import Comparison
from cool_rlhf.hacks.settings import HackSettings
from cool_rlhf.hacks.verdict import Gold
from reward.intervals import paired_bootstrap

STILL_PAID = 0.5
"""Share of what is paid with a wording from which it is not the wording that is paid for."""


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

    Edits that also bring in one of the patterns `named` that is what is paid for in them say
    nothing about this one.
    """
    options = settings.evidence
    made = contrasts(pattern, comparison, options.edits, settings.seed)
    readable = np.isfinite(model.differences(made))
    edits = _own([edit for edit, can in zip(made, readable, strict=True) if can], named, model)

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


def _own(edits: Sequence[Edit], named: Sequence[Pattern], model: Natural) -> Sequence[Edit]:
    """The edits without those where another pattern is paid for.

    A wording that is a part of an idea comes in with it, but the idea is paid for without it too; a
    wording that is paid for itself leaves little where it is missing.
    """
    if not named or not edits:
        return edits
    paid = model.differences(edits)
    others = np.zeros(len(edits), dtype=np.bool_)
    for other in named:
        brings = np.array([other.present(e.having) and not other.present(e.lacking) for e in edits])
        lacks = ~brings
        if not brings.any():
            continue
        if lacks.sum() >= LEAST and paid[lacks].mean() >= STILL_PAID * paid[brings].mean():
            continue
        others |= brings
    return [edit for edit, foreign in zip(edits, others, strict=True) if not foreign]


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
