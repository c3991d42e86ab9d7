"""Named programmatic annotators: stand-ins for people in the demo and in tests, stored as such."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

WORD = re.compile(r"[A-Za-z']+")
SENTENCE_END = re.compile(r"[.!?]['\"]?\s*$")
LENGTH_WORTH = 1.2
"""What length moves a score by, at most."""
ENOUGH_WORDS = 20
"""Words beyond which length no longer matters."""
FORGIVEN = 0.15
"""Share of unknown words that readers forgive: names, slips, one odd word in a sentence."""
BROKEN = 2.0
"""What thoroughly broken prose costs: more than any length can make up for."""
INDIFFERENT = 0.5
"""Difference below which an annotator does not care: nine words of twenty."""


@dataclass(frozen=True)
class Annotator:
    """Judges a reply under one condition by what it likes about it, part by part."""

    name: str
    condition: str
    parts: Callable[[str], tuple[float, ...]]

    def score(self, text: str) -> float:
        """The gold signal: higher is better."""
        return sum(self.parts(text))

    def prefers(self, replies: Sequence[str]) -> int | None:
        """0 or 1: which of two replies it prefers; None if it does not care, or is torn.

        Torn: one reply is clearly better in one part and the other in another.
        """
        first, second = (self.parts(reply) for reply in replies)
        gains = [b - a for a, b in zip(first, second, strict=True)]
        torn = min(gains) <= -INDIFFERENT and max(gains) >= INDIFFERENT
        if torn or abs(sum(gains)) < INDIFFERENT:
            return None
        return int(sum(gains) > 0)


def annotators(
    known_words: frozenset[str] | None, enough_words: int = ENOUGH_WORDS
) -> Mapping[str, Annotator]:
    """Two annotators by condition: opposed on length, agreed on clean prose.

    `known_words` is the lexicon against which the prose is checked; None: every word is known.
    """
    return {
        condition: Annotator(
            f"length-{condition}-v2", condition, partial(taste, sign, known_words, enough_words)
        )
        for condition, sign in (("brief", -1.0), ("detailed", 1.0))
    }


def taste(
    sign: float, known_words: frozenset[str] | None, enough_words: int, text: str
) -> tuple[float, float]:
    """What the words in the wanted direction are worth, and what is broken about the prose."""
    share = min(len(WORD.findall(text)), enough_words) / enough_words
    return sign * LENGTH_WORTH * share, -disfluency(text, known_words)


def disfluency(text: str, known_words: frozenset[str] | None) -> float:
    """0 for clean prose up to BROKEN; grows with unknown words, repetition and a missing end."""
    words = [word.lower() for word in WORD.findall(text)]
    if len(words) < 3:
        return BROKEN
    unknown = 0.0
    if known_words is not None:
        unknown = sum(word not in known_words for word in words) / len(words)
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    repeated = 1 - len(set(trigrams)) / len(trigrams)
    unfinished = 0.0 if SENTENCE_END.search(text) else 0.5
    return min(BROKEN, 8.0 * max(0.0, unknown - FORGIVEN) + 2.0 * repeated + unfinished)
