"""A phrase grown to the whole of what rose: words, slots and marks that nearly always stand by it.

Mining counts phrases of bounded length, so of a long wording it brings a piece. A piece that is cut
out leaves the rest behind, and put elsewhere it is not what was paid for.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cool_rlhf.hacks.patterns.phrases import SLOT, SLOT_WIDTH, Phrase
from cool_rlhf.hacks.patterns.text import is_chinese, sentences, tokens
from cool_rlhf.hacks.samples import Sample

NEARLY = 0.8
"""Share of replies, or of a rise, that is nearly all of it."""
BRACKETS = "([{（［｛【《〈「『“‘<#"  # they open only
OPENING_MARKS = BRACKETS + ">*_~`\"'"
MOST = 40  # tokens that a phrase grows by on each side


@dataclass(frozen=True)
class _Side:
    """What one reply has beside the phrase, nearest first: words of its sentence, and the mark that
    touches it."""

    words: tuple[str, ...]
    marks: tuple[str, ...]
    """Per word, and before the first: the mark that touches it on its far side, or nothing."""


Places = list[tuple[_Side, int]]
"""Replies that still go along, and how many of their words are taken."""


def widened(phrase: Phrase, samples: Iterable[Sample]) -> Phrase:
    """The phrase with what nearly all of these samples that have it have around it."""
    found = [sides for s in samples if (sides := _sides(phrase, s)) is not None]
    if not found:
        return phrase
    after: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    if phrase.family != "ending":
        after = _grown([right for _, right in found])
    if phrase.family != "opening":
        before = _grown([left for left, _ in found])
    gram = (*before[::-1], *phrase.gram, *after)
    template = phrase.family == "phrase" and SLOT in gram
    return replace(phrase, gram=gram, family="template" if template else phrase.family)


def _sides(phrase: Phrase, sample: Sample) -> tuple[_Side, _Side] | None:
    spans = phrase.spans(sample)
    if not spans:
        return None
    start, end = spans[0]
    reply = sample.reply
    # A widened phrase stays within its sentence, or within those that it spans already.
    parts = sentences(reply)
    begin = max(a for a, _ in parts if a <= start)
    stop = min(b for _, b in parts if b >= end)
    left = [(word, a + begin, b + begin) for word, a, b in tokens(reply[begin:start])]
    right = [(word, a + end, b + end) for word, a, b in tokens(reply[end:stop])]
    before = [reply[max(a - 1, begin) : a] for a in (start, *(a for _, a, _ in left[::-1]))]
    after = [reply[b : b + 1] for b in (end, *(b for _, _, b in right))]
    return (
        _Side(tuple(word for word, _, _ in left[::-1]), tuple(map(_opens, before))),
        _Side(tuple(word for word, _, _ in right), tuple(map(_closes, after))),
    )


def _opens(mark: str) -> str:
    return mark if mark and mark in OPENING_MARKS else ""


def _closes(mark: str) -> str:
    return mark if re.fullmatch(r"[^\w\s]", mark) and mark not in BRACKETS else ""


def _grown(sides: Sequence[_Side]) -> tuple[str, ...]:
    """Tokens that the phrase grows by on this side, nearest first."""
    least = NEARLY * len(sides)
    places = [(side, 0) for side in sides]
    gram: list[str] = []
    while len(gram) < MOST:
        step = _next_word(places, least) or _over_a_slot(places, least)
        if step is None:
            break
        added, places = step
        gram += added
    marks = Counter(side.marks[place] for side, place in places if side.marks[place])
    if marks and (most := marks.most_common(1)[0])[1] >= least:
        gram.append(most[0])
    return tuple(gram)


def _next_word(places: Places, least: float) -> tuple[list[str], Places] | None:
    words = Counter(side.words[place] for side, place in places if place < len(side.words))
    if not words or (most := words.most_common(1)[0])[1] < least:
        return None
    return [most[0]], [(s, p + 1) for s, p in places if s.words[p : p + 1] == (most[0],)]


def _over_a_slot(places: Places, least: float) -> tuple[list[str], Places] | None:
    """Two words, or the outermost one of the sentence and its mark, after some that vary."""
    at: dict[tuple[str, str], dict[int, int]] = {}
    for row, (side, place) in enumerate(places):
        if place >= len(side.words):
            continue
        width = SLOT_WIDTH[is_chinese(side.words[place])]
        for first in range(place + 1, min(place + width + 1, len(side.words))):
            last = first + 1 == len(side.words)
            second = f"\n{side.marks[first + 1]}" if last else side.words[first + 1]
            at.setdefault((side.words[first], second), {}).setdefault(row, first)
    if not at:
        return None
    # Of what as many have, the nearest: the slot must not swallow words that are always there.
    pair, rows = min(
        at.items(), key=lambda entry: (-len(entry[1]), sum(entry[1].values()), entry[0])
    )
    if len(rows) < least:
        return None
    words = [pair[0]] if pair[1].startswith("\n") else [*pair]
    return [SLOT, *words], [(places[r][0], first + len(words)) for r, first in rows.items()]
