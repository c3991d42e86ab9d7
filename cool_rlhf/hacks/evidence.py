"""What a judge pays for a pattern: in counterfactual texts, and between natural replies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import ttest_1samp

from cool_rlhf.hacks.contrasts import Edit
from cool_rlhf.hacks.judges import Array, Judge, UnreadableSample
from cool_rlhf.hacks.patterns.pattern import Pattern
from cool_rlhf.hacks.patterns.text import word_count
from cool_rlhf.hacks.samples import Comparison, Sample
from cool_rlhf.hacks.within import coefficient, relative
from pretrain_core.chat import Message
from pretrain_core.draws import rng
from pretrain_core.errors import RunFailed
from reward.intervals import Interval, paired_bootstrap

LEAST = 8
"""Prompts below which no interval is given."""


class JudgeError(RunFailed):
    """A reward model gave no number; names the sample."""


def finite(judge: Judge, name: str = "the reward model") -> Judge:
    """The same judge, which raises JudgeError for a score that is no finite number."""

    def checked(samples: Sequence[Sample]) -> Array:
        scores = np.asarray(judge(samples), dtype=np.float64)
        if scores.shape != (len(samples),):
            raise JudgeError(f"{len(samples)} samples got scores of shape {scores.shape}")
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            sample = samples[int(bad[0])]
            raise JudgeError(
                f"{name}'s score of a reply to prompt {sample.id!r} is {scores[bad[0]]} "
                f"({len(bad)} of {len(samples)} are no numbers): {sample.reply[:60]!r}"
            )
        return scores

    return checked


def remembering(judge: Judge) -> Judge:
    """The same judge, asked about each text once."""
    known: dict[Sample, float] = {}

    def remembered(samples: Sequence[Sample]) -> Array:
        new = [sample for sample in dict.fromkeys(samples) if sample not in known]
        if new:
            known.update(zip(new, np.asarray(judge(new), dtype=np.float64).tolist(), strict=True))
        return np.array([known[sample] for sample in samples])

    return remembered


@dataclass(frozen=True)
class Payment:
    """What one judge pays for a pattern, in standard deviations of its natural scores.

    `gain`: edited texts, all kinds together, prompts counting alike; `p`: one-sided, unadjusted.
    `by_kind`, `by_condition` (every edit judged under that condition), `swapped` (under another
    prompt): the same, apart. `matched`: between natural replies to the same prompt, the length and
    the policy allowed for. None where fewer than LEAST prompts tell.
    """

    gain: Interval | None
    p: float
    by_kind: dict[str, Interval] = field(default_factory=dict)
    by_condition: dict[str, Interval] = field(default_factory=dict)
    swapped: Interval | None = None
    matched: Interval | None = None


@dataclass(frozen=True)
class Natural:
    """A judge with its scores of the natural replies (early, then late), and their spread."""

    judge: Judge
    comparison: Comparison
    scores: Array
    spread: float

    @classmethod
    def of(cls, judge: Judge, comparison: Comparison) -> "Natural":
        """Ask the judge about every sample."""
        judge = remembering(judge)
        scores = judge(comparison.samples)
        judged = scores[np.isfinite(scores)]
        spread = float(judged.std()) if len(judged) > 1 else 0.0
        return cls(judge, comparison, scores, spread or 1.0)

    def under(self, condition: str) -> "Natural":
        """The same for the prompts of one condition; the spread stays that of all."""
        rows = [s.condition == condition for s in self.comparison.samples]
        early, late = (
            tuple(s for s in side if s.condition == condition)
            for side in (self.comparison.early, self.comparison.late)
        )
        return replace(self, comparison=Comparison(early, late), scores=self.scores[rows])

    @property
    def conditions(self) -> list[str]:
        """Those of the samples, where there are several."""
        found = list(dict.fromkeys(s.condition for s in self.comparison.samples if s.condition))
        return found if len(found) > 1 else []

    @property
    def judged(self) -> int:
        """Natural replies that have a score."""
        return int(np.isfinite(self.scores).sum())

    def gain(self, seed: int) -> Interval | None:
        """Mean natural score of the late policy over the early one's, paired by prompt."""
        by_prompt: dict[str, tuple[list[float], list[float]]] = {}
        for row, sample in enumerate(self.comparison.samples):
            late = row >= len(self.comparison.early)
            if np.isfinite(self.scores[row]):
                by_prompt.setdefault(sample.id, ([], []))[late].append(self.scores[row])
        values = [
            np.mean(late) - np.mean(early) for early, late in by_prompt.values() if early and late
        ]
        if len(values) < LEAST:
            return None
        return paired_bootstrap(np.array(values) / self.spread, seed=seed)

    def differences(
        self, edits: Sequence[Edit], change: Callable[[Sample], Sample] = lambda sample: sample
    ) -> Array:
        """Score with the pattern − without it, per edit [n], in spreads; NaN where not judged."""
        if not edits:
            return np.empty(0)
        having = self._readable([change(edit.having) for edit in edits])
        lacking = self._readable([change(edit.lacking) for edit in edits])
        return (having - lacking) / self.spread

    def _readable(self, samples: Sequence[Sample]) -> Array:
        """Scores [n]; NaN for a text that the judge cannot take: an edit may make one too long."""
        left_out: set[Sample] = set()
        while True:
            asked = [sample for sample in samples if sample not in left_out]
            try:
                scores = iter(self.judge(asked))
            except UnreadableSample as error:
                left_out.add(error.sample)
            else:
                return np.array([np.nan if s in left_out else next(scores) for s in samples])


def payment(
    pattern: Pattern,
    edits: Sequence[Edit],
    natural: Natural,
    seed: int,
    resamples: int,
    deeper: bool = False,
) -> tuple[Payment, Array]:
    """What a judge pays, and the difference of each edit [n]; `deeper`: all of its fields."""

    def interval(values: Array, of: Sequence[Edit]) -> Interval | None:
        return _interval(values, of, seed, resamples)

    differences = natural.differences(edits)
    by_kind: dict[str, Interval] = {}
    for kind in dict.fromkeys(edit.kind for edit in edits):
        rows = [row for row, edit in enumerate(edits) if edit.kind == kind]
        found = interval(differences[rows], [edits[row] for row in rows])
        if found is not None:
            by_kind[kind] = found
    paid = Payment(
        interval(differences, edits),
        one_sided_p(_per_prompt(differences, edits)),
        by_kind,
        matched=matched(pattern, natural, seed, resamples),
    )
    if not deeper:
        return paid, differences
    by_condition: dict[str, Interval] = {}
    for condition in natural.conditions:
        under = natural.differences(edits, lambda s, c=condition: replace(s, condition=c))  # type: ignore[misc]
        if (found := interval(under, edits)) is not None:
            by_condition[condition] = found
    elsewhere = _other_prompts(natural.comparison, seed)
    swapped = natural.differences(edits, lambda s: replace(s, prompt=elsewhere[s.id]))
    return (
        replace(paid, by_condition=by_condition, swapped=interval(swapped, edits)),
        differences,
    )


def matched(pattern: Pattern, natural: Natural, seed: int, resamples: int) -> Interval | None:
    """Coefficient of the pattern between replies to the same prompt, in spreads of the scores.

    Scores, presence, log length and policy are taken relative to their prompt's means; least
    squares; the interval resamples prompts. None where fewer than LEAST prompts have replies with
    and without it.
    """
    samples = natural.comparison.samples
    judged = np.flatnonzero(np.isfinite(natural.scores))
    kept = [samples[row] for row in judged]
    ids = [sample.id for sample in kept]
    late = (judged >= len(natural.comparison.early)).astype(float)
    present = np.array([pattern.present(sample) for sample in kept], dtype=float)
    # The length itself cannot be allowed for when it is what is asked about.
    length = np.array([np.log1p(word_count(s.reply)) for s in kept])
    columns = np.stack([present, late] + ([length] if pattern.family != "length" else []), axis=1)
    varied = {id for id, row in zip(ids, relative(columns, ids), strict=True) if abs(row[0]) > 1e-9}
    if len(varied) < LEAST:
        return None
    scores = natural.scores[judged] / natural.spread
    return coefficient(columns, scores, ids, ids, seed, resamples)


def one_sided_p(values: Array) -> float:
    """P-value of a mean above 0 (Student's t); 1 for too few values."""
    values = values[np.isfinite(values)]
    if len(values) < LEAST:
        return 1.0
    if np.ptp(values) < 1e-12:
        return 0.0 if values[0] > 0 else 1.0
    return float(ttest_1samp(values, 0.0, alternative="greater").pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979), in the order given."""
    adjusted = np.empty(len(p))
    largest = 0.0
    for rank, row in enumerate(np.argsort(p, kind="stable")):
        largest = max(largest, min(1.0, (len(p) - rank) * p[row]))
        adjusted[row] = largest
    return [float(value) for value in adjusted]


def _interval(values: Array, edits: Sequence[Edit], seed: int, resamples: int) -> Interval | None:
    means = _per_prompt(values, edits)
    if len(means) < LEAST:
        return None
    return paired_bootstrap(means, seed=seed, resamples=resamples)


def _per_prompt(values: Array, edits: Sequence[Edit]) -> Array:
    by_prompt: dict[str, list[float]] = {}
    for value, edit in zip(values, edits, strict=True):
        if np.isfinite(value):
            by_prompt.setdefault(edit.having.id, []).append(float(value))
    return np.array([np.mean(found) for found in by_prompt.values()])


def _other_prompts(comparison: Comparison, seed: int) -> dict[str, tuple[Message, ...]]:
    """Per prompt the messages of another one, drawn as one circle over all of them."""
    prompts = {sample.id: sample.prompt for sample in comparison.samples}
    ids = list(prompts)
    order = [ids[int(row)] for row in rng(seed, "hacks/swap").permutation(len(ids))]
    return {id: prompts[order[(row + 1) % len(order)]] for row, id in enumerate(order)}
