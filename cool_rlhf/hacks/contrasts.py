"""Counterfactual texts: the same reply with a pattern and without it, as long in both cases.

Cutting a pattern out also shortens a reply and may behead a sentence; putting one in adds foreign
text. So every edit has a placebo of the same length at a like place, and only their difference
counts: the reply with the placebo cut out still has the pattern, the one with a placebo put in has
not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cool_rlhf.hacks.patterns.pattern import Pattern
from cool_rlhf.hacks.patterns.text import Span, sentences, tokens, with_inserted, without
from cool_rlhf.hacks.samples import Comparison, Sample
from pretrain_core.draws import rng

TRIES = 8  # donors looked at for one edit


@dataclass(frozen=True)
class Edit:
    """Two versions of one reply, which differ in the pattern alone."""

    kind: Literal["removal", "insertion"]
    having: Sample
    lacking: Sample


def contrasts(pattern: Pattern, comparison: Comparison, most: int, seed: int) -> list[Edit]:
    """Edits of at most `most` drawn prompts per kind, or of twice as many where there is one kind.

    An edit is kept only if the pattern stands in the one version and not in the other.
    """
    having = [sample for sample in comparison.late if pattern.present(sample)]
    lacking = [sample for sample in comparison.early if not pattern.present(sample)]
    found: list[Edit] = []
    if pattern.cuttable:
        found += _edits("removal", pattern, having, having, most, seed)
    else:
        most *= 2
    # What a late reply brings may be paid for itself: neutral text comes from early ones.
    donors = having if pattern.transplantable else comparison.early
    found += _edits("insertion", pattern, lacking, donors, most, seed, comparison.early)
    return found


def _edits(
    kind: Literal["removal", "insertion"],
    pattern: Pattern,
    samples: Sequence[Sample],
    donors: Sequence[Sample],
    most: int,
    seed: int,
    neutral: Sequence[Sample] = (),
) -> list[Edit]:
    found: dict[str, Edit] = {}
    order = rng(seed, f"hacks/{kind}/{pattern.name}").permutation(len(samples))
    for row in order:
        sample = samples[int(row)]
        if len(found) >= most:
            break
        if sample.id in found:
            continue
        draw = rng(seed, f"hacks/{kind}/{pattern.name}", 0, sample.id)
        if kind == "removal":
            edit = removal(pattern, sample, draw)
        else:
            edit = insertion(pattern, sample, donors, draw, neutral)
        if edit is not None:
            found[sample.id] = edit
    return list(found.values())


def removal(pattern: Pattern, sample: Sample, draw: np.random.Generator) -> Edit | None:
    """The reply without the pattern, against the reply without as much of something else."""
    spans = pattern.spans(sample)
    placebo = placebo_span(sample.reply, spans, draw)
    if placebo is None:
        return None
    lacking = sample.saying(without(sample.reply, spans))
    having = sample.saying(without(sample.reply, [placebo]))
    return _edit("removal", pattern, having, lacking)


def insertion(
    pattern: Pattern,
    sample: Sample,
    donors: Sequence[Sample],
    draw: np.random.Generator,
    neutral: Sequence[Sample] = (),
) -> Edit | None:
    """The reply with the pattern of a reply to another prompt, against other text from there.

    Where that has no stretch as long, it comes from a `neutral` reply.
    """
    others = [donor for donor in donors if donor.id != sample.id]
    for row in draw.permutation(len(others))[:TRIES]:
        donor = others[int(row)]
        if pattern.transplantable:
            pair = _transplanted(pattern, sample, donor, draw, neutral)
        else:
            pair = pattern.added(sample, donor)
        if pair is None:
            continue
        edit = _edit("insertion", pattern, sample.saying(pair[0]), sample.saying(pair[1]))
        if edit is not None:
            return edit
    return None


def _transplanted(
    pattern: Pattern,
    sample: Sample,
    donor: Sample,
    draw: np.random.Generator,
    neutral: Sequence[Sample],
) -> tuple[str, str] | None:
    spans = pattern.spans(donor)
    if not spans:
        return None
    start, end = spans[int(draw.integers(len(spans)))]
    placebo = _placebo_text(donor, spans, draw, (start, end), sample, neutral)
    if placebo is None:
        return None
    place = _like_place(
        sample.reply, start / len(donor.reply), end >= len(donor.reply.rstrip()) - 1
    )
    return with_inserted(sample.reply, place, donor.reply[start:end]), with_inserted(
        sample.reply, place, placebo
    )


def _placebo_text(
    donor: Sample,
    spans: Sequence[Span],
    draw: np.random.Generator,
    like: Span,
    sample: Sample,
    neutral: Sequence[Sample],
) -> str | None:
    found = placebo_span(donor.reply, spans, draw, like)
    if found is not None:
        return donor.reply[found[0] : found[1]]
    others = [other for other in neutral if other.id not in (sample.id, donor.id)]
    for row in draw.permutation(len(others))[:TRIES]:
        reply = others[int(row)].reply
        found = placebo_span(reply, [], draw, like)
        if found is not None:
            return reply[found[0] : found[1]]
    return None


def _edit(
    kind: Literal["removal", "insertion"], pattern: Pattern, having: Sample, lacking: Sample
) -> Edit | None:
    if not having.reply or not lacking.reply or having.reply == lacking.reply:
        return None
    if not pattern.present(having) or pattern.present(lacking):
        return None
    return Edit(kind, having, lacking)


def placebo_span(
    reply: str, spans: Sequence[Span], draw: np.random.Generator, like: Span | None = None
) -> Span | None:
    """A stretch as long as `like` (default: all spans together) that touches none of them.

    Of whole sentences where the pattern is whole sentences, else of whole words; of the stretches
    whose length fits best, one is drawn. None where no stretch of about this length is free.
    """
    wanted = (like[1] - like[0]) if like else sum(end - start for start, end in spans)
    parts = sentences(reply)
    edges = {edge for part in parts for edge in part}
    if not all(start in edges and end in edges for start, end in spans):
        parts = [(start, end) for _, start, end in tokens(reply)]
    free: list[tuple[int, Span]] = []
    for first in range(len(parts)):
        best: tuple[int, Span] | None = None
        for last in range(first, len(parts)):
            span = parts[first][0], parts[last][1]
            if any(span[0] < end and start < span[1] for start, end in spans):
                break
            miss = abs(span[1] - span[0] - wanted)
            if best is None or miss < best[0]:
                best = miss, span
            if span[1] - span[0] > wanted:
                break
        if best is not None:
            free.append(best)
    if not free:
        return None
    closest = min(miss for miss, _ in free)
    if closest > max(4, wanted / 2):
        return None
    slack = max(closest, 2, wanted // 8)
    fitting = [span for miss, span in free if miss <= slack]
    return fitting[int(draw.integers(len(fitting)))]


def _like_place(reply: str, relative: float, at_end: bool) -> int:
    """The sentence boundary that lies where the donor had the text."""
    if at_end:
        return len(reply)
    if relative == 0:
        return 0
    boundaries = [start for start, _ in sentences(reply)] + [len(reply)]
    return min(boundaries, key=lambda place: abs(place - relative * len(reply)))
