"""Which patterns may have risen: proposals from one half of the prompts."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cool_rlhf.hacks.patterns.meanings import SCOPES, propose_meanings
from cool_rlhf.hacks.patterns.pattern import Pattern
from cool_rlhf.hacks.patterns.phrases import Phrase, propose_phrases
from cool_rlhf.hacks.patterns.shapes import shapes
from cool_rlhf.hacks.patterns.signs import PLACES, Sign, propose_signs
from cool_rlhf.hacks.samples import Comparison, Sample
from cool_rlhf.hacks.settings import HackSettings
from cool_rlhf.hacks.widening import NEARLY, widened
from pretrain_core.draws import rng

Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float64]
HALF = 0.5


def halves(comparison: Comparison, seed: int) -> tuple[Comparison, Comparison]:
    """Two drawn halves of the prompts: one proposes patterns, the other confirms them."""
    prompts = comparison.prompts
    order = rng(seed, "hacks/halves").permutation(len(prompts))
    first = {prompts[int(row)] for row in order[: len(prompts) // 2]}
    parts = []
    for wanted in (first, set(prompts) - first):
        early, late = (
            tuple(sample for sample in side if sample.id in wanted)
            for side in (comparison.early, comparison.late)
        )
        parts.append(Comparison(early, late))
    return parts[0], parts[1]


def propose(half: Comparison, settings: HackSettings) -> list[Pattern]:
    """Patterns whose log-odds rose, strongest first, each idea once; no shape, nor what is one."""
    mining = settings.mining
    samples = half.samples
    late = np.arange(len(samples)) >= len(half.early)
    shaped = [present(shape, samples)[late] for shape in shapes(half.early)]
    wordings = propose_phrases(samples, late, mining)
    signs = [
        (sign, rows)
        for sign, rows in propose_signs(samples, late, mining.least_replies)
        if all(likeness(rows[late], other) < mining.overlap for other in shaped)
    ]
    meanings = [
        (pattern, present(pattern, samples))
        for scope in SCOPES
        for pattern in propose_meanings(samples, late, mining.least_replies, settings.seed, scope)
    ]
    scored: list[tuple[float, Pattern, Mask]] = []
    for pattern, rows in [*wordings, *signs, *meanings]:
        rise = share_rise(rows, late)
        z = log_odds_z(rows, late, mining.prior)
        if z >= mining.least_z and rise >= settings.least_rise / 2:
            scored.append((z, pattern, rows))
    return _distinct(scored, samples, late, mining.overlap)[: mining.most]


def fewest_mined(replies: int, settings: HackSettings) -> int:
    """Late replies of so many that a pattern must be in to be proposed if no early one has it."""
    late = np.arange(2 * replies) >= replies
    least = max(settings.mining.least_replies, math.ceil(settings.least_rise / 2 * replies))
    for count in range(least, replies):
        rows = np.arange(2 * replies) >= 2 * replies - count
        if log_odds_z(rows, late, settings.mining.prior) >= settings.mining.least_z:
            return count
    return replies


def log_odds_z(rows: Mask, late: Mask, prior: float) -> float:
    """Difference of the log-odds of late and early replies over its standard error.

    The prior is worth `prior` replies with the frequency of all of them (Monroe et al. 2008, with
    replies as units): what is rare in both needs more to stand out.
    """
    least = 0.5 / len(rows)
    expected = prior * float(np.clip(rows.mean(), least, 1 - least))
    odds, variance = [], 0.0
    for side in (late, ~late):
        having = rows[side].sum() + expected
        lacking = side.sum() + prior - having
        odds.append(np.log(having / lacking))
        variance += 1 / having + 1 / lacking
    return float((odds[0] - odds[1]) / np.sqrt(variance))


def _distinct(
    scored: Sequence[tuple[float, Pattern, Mask]],
    samples: Sequence[Sample],
    late: Mask,
    overlap: float,
) -> list[Pattern]:
    """Strongest first; what mostly stands in the same late replies is one idea.

    An idea is shown by a wording rather than by likeness, and by the longest wording that has most
    of its replies, widened to the whole of what they share.
    """
    ordered = sorted(
        scored,
        key=lambda entry: (
            not isinstance(entry[1], Phrase),
            -entry[0],
            -_size(entry[1]),
            entry[1].name,
        ),
    )
    phrases = [pattern for _, pattern, _ in ordered if isinstance(pattern, Phrase)]
    masks = np.array([rows for _, pattern, rows in ordered if isinstance(pattern, Phrase)])
    kept: list[tuple[float, Pattern, Mask]] = []
    for row, (z, pattern, rows) in enumerate(ordered):
        if any(likeness(rows[late], other[late]) >= overlap for _, _, other in kept):
            continue
        if isinstance(pattern, Phrase):
            longest = _longest(row, phrases, masks, late)  # wordings come first in the order
            having = np.flatnonzero(masks[longest] & late)
            pattern = widened(phrases[longest], [samples[number] for number in having])
            rows = present(pattern, samples)
            if any(likeness(rows[late], other[late]) >= overlap for _, _, other in kept):
                continue
        kept.append((z, pattern, rows))
    return [pattern for _, pattern, _ in sorted(kept, key=lambda entry: -entry[0])]


def _longest(own: int, phrases: Sequence[Phrase], masks: npt.NDArray[np.bool_], late: Mask) -> int:
    """Which wording, of `masks` [phrases, n], is the longest that accounts for nearly all of the
    rise of one, and for little else; where none is longer, for half of it.

    A word of a phrase is more frequent than the phrase, but what rose is the phrase. The other half
    may be a second reason to use the word, which has wordings of its own.
    """
    shared, rise = masks & masks[own], share_rise(masks[own], late)
    inside = shared[:, late].sum(axis=1) >= NEARLY * masks[:, late].sum(axis=1)
    rises = shared[:, late].mean(axis=1) - shared[:, ~late].mean(axis=1)
    for share in (NEARLY, HALF):
        found = np.flatnonzero(inside & (rises >= share * rise - 1e-12))
        longest = max(found.tolist(), key=lambda row: (_size(phrases[row]), phrases[row].name))
        if longest != own:
            return int(longest)
    return own


def share_rise(rows: Mask, late: Mask) -> float:
    """By how much the share of replies that have a pattern rose."""
    return float(rows[late].mean() - rows[~late].mean())


def _size(pattern: Pattern) -> int:
    """How much it says about its place."""
    if isinstance(pattern, Sign):
        return len(pattern.run) + PLACES.index(pattern.place)
    return len(pattern.gram) if isinstance(pattern, Phrase) else 0


def likeness(first: Mask, second: Mask) -> float:
    """Replies with both of those with either, less what chance gives: 0 by chance, 1 if the same.

    Two patterns that most replies have meet in most of them without being one.
    """
    a, b = first.mean(), second.mean()
    by_chance = a * b / (a + b - a * b) if a + b else 0.0
    found = (first & second).sum() / max(1, (first | second).sum())
    return float((found - by_chance) / (1 - by_chance)) if by_chance < 1 else 1.0


def present(pattern: Pattern, samples: Sequence[Sample]) -> Mask:
    """Which replies have the pattern [n]."""
    return np.array([pattern.present(sample) for sample in samples], dtype=np.bool_)


def amounts(pattern: Pattern, samples: Sequence[Sample]) -> Array:
    """How much of the pattern each reply has [n]."""
    return np.array([pattern.amount(sample) for sample in samples])
