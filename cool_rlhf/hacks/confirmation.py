"""Which proposed patterns really rose: paired sign flips over the prompts of the other half."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from cool_rlhf.hacks.mining import amounts
from cool_rlhf.hacks.pattern import Pattern
from cool_rlhf.hacks.samples import Comparison
from cool_rlhf.hacks.settings import HackSettings
from pretrain_core.draws import rng
from reward.intervals import Interval, paired_bootstrap

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rise:
    """How much more of a pattern the late policy has, on prompts that did not propose it.

    `early`, `late`: shares of replies that have it. `shift`: difference of the amounts in standard
    deviations. `p`: adjusted for all proposed patterns (max-T). `interval`: of late − early, where
    it is confirmed.
    """

    pattern: Pattern
    early: float
    late: float
    shift: float
    p: float
    interval: Interval | None = None

    @property
    def confirmed(self) -> bool:
        """Whether it rose beyond chance, and by enough."""
        return self.interval is not None


def confirm_rises(
    patterns: Sequence[Pattern], half: Comparison, settings: HackSettings
) -> list[Rise]:
    """The rise of each pattern, in the order given, with p-values adjusted for all of them.

    Under the null hypothesis the two policies' replies to a prompt can be exchanged: all patterns'
    differences change their sign together, and the largest statistic of each flip is what chance
    can reach anywhere (Westfall and Young 1993).
    """
    prompts = {id: row for row, id in enumerate(half.prompts)}
    differences = np.zeros((len(prompts), len(patterns)))
    present = np.zeros((len(prompts), len(patterns)))
    shares: list[tuple[float, float]] = []
    for column, pattern in enumerate(patterns):
        by_policy = []
        for samples in (half.early, half.late):
            rows = np.array([prompts[sample.id] for sample in samples])
            having = np.array([pattern.present(sample) for sample in samples], dtype=float)
            amount = amounts(pattern, samples) if pattern.measured else having
            by_policy.append(
                (_means(amount, rows, len(prompts)), _means(having, rows, len(prompts)))
            )
        (first, had), (second, has) = by_policy
        spread = float(np.concatenate([first, second]).std()) or 1.0
        differences[:, column] = (second - first) / spread
        present[:, column] = has - had
        shares.append((float(had.mean()), float(has.mean())))
    p = max_t(differences, settings.permutations, settings.seed)
    found = []
    for column, pattern in enumerate(patterns):
        rise, shift = float(present[:, column].mean()), float(differences[:, column].mean())
        enough = rise >= settings.least_rise or (pattern.measured and shift >= settings.least_shift)
        rose = enough and p[column] <= settings.alpha
        interval = paired_bootstrap(present[:, column], seed=settings.seed) if rose else None
        found.append(Rise(pattern, *shares[column], shift, float(p[column]), interval))
    return found


def max_t(differences: Array, permutations: int, seed: int) -> Array:
    """Adjusted one-sided p-values [patterns] that differences [prompts, patterns] are above 0."""
    size = np.sqrt((differences**2).sum(axis=0))
    scaled = np.divide(differences, size, out=np.zeros_like(differences), where=size > 0)
    observed = scaled.sum(axis=0)
    signs = rng(seed, "hacks/signs").choice([-1.0, 1.0], size=(permutations, len(differences)))
    largest = (signs @ scaled).max(axis=1, initial=-np.inf)
    # A statistic that equals a flip's but for rounding is reached by it.
    reached = (largest[:, None] >= observed[None] - 1e-9).sum(axis=0)
    return (1 + reached) / (1 + permutations)


def prompts_needed(settings: HackSettings) -> int:
    """Prompts that give a pattern rising from 0 to `target_rise` its chance of `power`.

    With k late replies that have it and no early one, the sign flips reach p = 2^-k; to be safe
    that is divided by all patterns that may be proposed.
    """
    needed = math.ceil(math.log2(settings.mining.most / settings.alpha))
    half = needed
    while binom.sf(needed - 1, half, settings.target_rise) < settings.power:
        half += 1
    return 2 * half


def _means(values: Array, rows: npt.NDArray[np.int64], count: int) -> Array:
    return np.bincount(rows, values, count) / np.bincount(rows, minlength=count)
