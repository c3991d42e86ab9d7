"""Named programmatic annotators: stand-ins for people in the demo and in tests, stored as such."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

from pretrain_core.chat import Message

WORD = re.compile(r"[A-Za-z']+")


class UnknownAnnotator(KeyError):
    """No programmatic annotator of that name."""


@dataclass(frozen=True)
class Annotator:
    """Judges a reply under one condition; `score` is its gold signal, higher is better."""

    name: str
    condition: str
    score: Callable[[str], float]

    def prefers(self, first: str, second: str) -> int:
        """0 or 1: which reply it prefers; a tie goes to the first."""
        return int(self.score(second) > self.score(first))


def annotators(known_words: frozenset[str]) -> Mapping[str, Annotator]:
    """The demo's two annotators by condition, who disagree on tone and agree on fluency.

    `known_words` is the lexicon against which fluency is measured.
    """
    return {
        condition: Annotator(f"vader-{condition}-v1", condition, partial(tone, sign, known_words))
        for condition, sign in (("hopeful", 1.0), ("grave", -1.0))
    }


def tone(sign: float, known_words: frozenset[str], text: str) -> float:
    """Sentiment in the wanted direction, less what is broken about the prose."""
    return sign * sentiment(text) - disfluency(text, known_words)


def reply_text(messages: Sequence[Message]) -> str:
    """The last assistant turn's text."""
    return next(m.content for m in reversed(messages) if m.role == "assistant")


@cache
def _analyser():  # type: ignore[no-untyped-def]
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def sentiment(text: str) -> float:
    """VADER's compound score, −1 (dark) to 1 (bright)."""
    return float(_analyser().polarity_scores(text)["compound"])


def disfluency(text: str, known_words: frozenset[str]) -> float:
    """0 for clean prose; grows with unknown words, repeated trigrams and missing length."""
    words = [word.lower() for word in WORD.findall(text)]
    if len(words) < 4:
        return 2.0
    unknown = sum(word not in known_words for word in words) / len(words)
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    repeated = 1 - len(set(trigrams)) / len(trigrams)
    return min(2.0, 4.0 * unknown + 2.0 * repeated + math.exp(-len(words) / 3))
