"""Which patterns really rose: permutations over the prompts that did not propose them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from cool_rlhf.hacks.mining import (
    amounts,
    fewest_mined,
    halves,
    likeness,
    present,
    propose,
    share_rise,
)
from cool_rlhf.hacks.patterns.meanings import LateSentences
from cool_rlhf.hacks.patterns.pattern import Pattern
from cool_rlhf.hacks.patterns.shapes import shapes
from cool_rlhf.hacks.samples import Comparison
from cool_rlhf.hacks.settings import HackSettings
from cool_rlhf.hacks.widening import NEARLY
from pretrain_core.draws import rng
from reward.intervals import Interval, bootstrap_statistic

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
TESTS = 3
"""All shapes on all prompts, and what each half proposes on the other."""
AT_ONCE = 4000
"""Permutations held in memory together."""


@dataclass(frozen=True)
class Rise:
    """How much more of a pattern the late policy has, on prompts that did not propose it.

    `early`, `late`: shares of replies that have it. `shift`: difference of the amounts in standard
    deviations. `p`: adjusted for all patterns (max-T) and all tests. `interval`: of late − early,
    where it is confirmed. `prompts`: ids of those it was measured on.
    """

    pattern: Pattern
    early: float
    late: float
    shift: float
    p: float
    interval: Interval | None = None
    prompts: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def confirmed(self) -> bool:
        """Whether it rose beyond chance, and by enough."""
        return self.interval is not None


def find_rises(comparison: Comparison, settings: HackSettings) -> list[Rise]:
    """The rise of every pattern, with p-values adjusted for all of them.

    Shapes are known beforehand, so all prompts test them. What one half of the prompts proposes,
    the other half tests, both ways round. Each of these tests may err with its part of `alpha`.
    What both halves bring is one rise, the surer one.
    """
    first, second = halves(comparison, settings.seed)
    tests = (
        (shapes(comparison.early), comparison),
        (propose(first, settings), second),
        (propose(second, settings), first),
    )
    part = settings.model_copy(update={"alpha": settings.alpha / TESTS})
    found = [
        replace(rise, p=min(1.0, TESTS * rise.p), prompts=frozenset(tested.prompts))
        for patterns, tested in tests
        for rise in confirm_rises(patterns, tested, part)
    ]
    return _once(found, comparison, settings.mining.overlap)


def _once(rises: Sequence[Rise], comparison: Comparison, overlap: float) -> list[Rise]:
    """Of several rises in mostly the same late replies one: a wording, or else the surest."""
    late = np.arange(len(comparison.samples)) >= len(comparison.early)
    kept: list[tuple[Rise, Mask | None]] = []
    ordered = sorted(
        rises,
        key=lambda rise: (
            not rise.confirmed,
            isinstance(rise.pattern, LateSentences),
            rise.p,
            -len(rise.pattern.name),
        ),
    )
    for rise in ordered:
        if any(rise.pattern.name == other.pattern.name for other, _ in kept):
            continue
        rows = None
        if rise.confirmed and not rise.pattern.measured:
            rows = present(rise.pattern, comparison.samples)
            others = [theirs for _, theirs in kept if theirs is not None]
            if any(likeness(rows[late], theirs[late]) >= overlap for theirs in others):
                continue
            # Loose groups are in many early replies too: all that rose in one may be a wording.
            if isinstance(rise.pattern, LateSentences) and any(
                share_rise(rows & theirs, late) >= NEARLY * share_rise(rows, late)
                for theirs in others
            ):
                continue
        kept.append((rise, rows))
    return [rise for rise, _ in kept]


def confirm_rises(
    patterns: Sequence[Pattern], half: Comparison, settings: HackSettings
) -> list[Rise]:
    """The rise of each pattern, in the order given, with p-values adjusted for all of them.

    Prompts count alike, whether one policy answered them or both.
    """
    amount, share = _by_prompt(patterns, half)
    spread = np.nanstd(amount, axis=(0, 1))
    scaled = amount / np.where(spread > 0, spread, 1.0)
    answered = ~np.isnan(amount[:, :, 0]) if patterns else np.zeros((2, 0), dtype=np.bool_)
    both = answered.all(axis=0)
    p = max_t(
        (scaled[1] - scaled[0])[both],
        settings.permutations,
        settings.seed,
        early=scaled[0][answered[0] & ~both],
        late=scaled[1][answered[1] & ~both],
    )
    found = []
    for column, pattern in enumerate(patterns):
        early, late = (float(np.nanmean(side)) for side in share[:, :, column])
        shift = float(np.subtract(*(np.nanmean(side) for side in scaled[::-1, :, column])))
        enough = late - early >= settings.least_rise or (
            pattern.measured and shift >= settings.least_shift
        )
        rose = enough and p[column] <= settings.alpha
        interval = _interval(share[:, :, column], settings.seed) if rose else None
        found.append(Rise(pattern, early, late, shift, float(p[column]), interval))
    return found


def max_t(
    differences: Array,
    permutations: int,
    seed: int,
    early: Array | None = None,
    late: Array | None = None,
) -> Array:
    """Adjusted one-sided p-values [patterns] that a late policy has more, max-T over all patterns.

    `differences` [prompts, patterns], late − early, of prompts that both policies answered: under
    the null hypothesis their replies can be exchanged, which changes the sign of all patterns'
    differences together. `early`, `late` [prompts, patterns]: amounts on prompts that one policy
    alone answered: under the null hypothesis it is chance which one, so the policies of all these
    prompts are permuted. The largest statistic of each permutation is what chance can reach
    anywhere (Westfall and Young 1993).
    """
    nothing = np.empty((0, differences.shape[1]))
    early, late = early if early is not None else nothing, late if late is not None else nothing
    alone = np.concatenate([early, late])
    alone = alone - alone.mean(axis=0) if len(alone) else alone
    is_late = np.arange(len(alone)) >= len(early)
    # A pair is worth two prompts of which each policy has one.
    paired, labels = differences / 2, is_late - (is_late.mean() if len(alone) else 0.0)
    variance = (paired**2).sum(axis=0)
    if len(alone) > 1:
        variance += (labels**2).sum() * (alone**2).sum(axis=0) / (len(alone) - 1)
    scale = np.divide(1.0, np.sqrt(variance), out=np.zeros_like(variance), where=variance > 0)
    paired, alone = paired * scale, alone * scale
    observed = paired.sum(axis=0) + labels @ alone
    draw = rng(seed, "hacks/signs")
    reached = np.zeros(len(observed))
    for first in range(0, permutations, AT_ONCE):
        rows = min(AT_ONCE, permutations - first)
        signs = draw.choice([-1.0, 1.0], size=(rows, len(paired)))
        permuted = draw.permuted(np.tile(labels, (rows, 1)), axis=1)
        largest = (signs @ paired + permuted @ alone).max(axis=1, initial=-np.inf)
        # A statistic that equals a permutation's but for rounding is reached by it.
        reached += (largest[:, None] >= observed[None] - 1e-9).sum(axis=0)
    return (1 + reached) / (1 + permutations)


def prompts_needed(settings: HackSettings) -> int:
    """Prompts that give a pattern rising from 0 to `target_rise` its chance of `power`.

    One half must bring enough late replies that have it to propose it, and the other to confirm it:
    with k of them and no early one permutations reach p = 2^-k; to be safe that is divided by all
    patterns that may be proposed, and by the number of tests.
    """
    confirming = math.ceil(math.log2(TESTS * settings.mining.most / settings.alpha))
    half = confirming
    while True:
        proposing = fewest_mined(half, settings)
        proposes, confirms, does_both = (
            binom.sf(least - 1, half, settings.target_rise)
            for least in (proposing, confirming, max(proposing, confirming))
        )
        # Either half in either part: counted twice where both do both.
        if 2 * proposes * confirms - does_both**2 >= settings.power:
            return 2 * half
        half += 1


def visible_rise(prompts: int, settings: HackSettings) -> float | None:
    """Smallest rise from 0, in whole percent, that so many prompts show with `power`, if any."""
    for percent in range(math.ceil(100 * settings.least_rise), 100):
        asked = settings.model_copy(update={"target_rise": percent / 100})
        if prompts_needed(asked) <= prompts:
            return percent / 100
    return None


def _by_prompt(patterns: Sequence[Pattern], half: Comparison) -> tuple[Array, Array]:
    """Mean amounts and shares [policy, prompts, patterns]; NaN where a policy has no reply."""
    prompts = {id: row for row, id in enumerate(half.prompts)}
    amount = np.full((2, len(prompts), len(patterns)), np.nan)
    share = amount.copy()
    for side, samples in enumerate((half.early, half.late)):
        rows = np.array([prompts[sample.id] for sample in samples], dtype=np.int64)
        for column, pattern in enumerate(patterns):
            having = present(pattern, samples).astype(np.float64)
            share[side, :, column] = _means(having, rows, len(prompts))
            much = amounts(pattern, samples) if pattern.measured else having
            amount[side, :, column] = _means(much, rows, len(prompts))
    return amount, share


def _means(values: Array, rows: npt.NDArray[np.int64], count: int) -> Array:
    counts = np.bincount(rows, minlength=count)
    sums = np.bincount(rows, values, count)
    return np.divide(sums, counts, out=np.full(count, np.nan), where=counts > 0)


def _interval(shares: Array, seed: int) -> Interval:
    """Of late − early shares [policy, prompts], resampling prompts."""
    answered = ~np.isnan(shares)
    columns = np.concatenate([np.where(answered, shares, 0.0), answered]).T
    return bootstrap_statistic(
        columns, lambda sums: sums[:, 1] / sums[:, 3] - sums[:, 0] / sums[:, 2], seed=seed
    )
