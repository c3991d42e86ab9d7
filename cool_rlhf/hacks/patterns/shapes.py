"""Patterns of shape: length, repetition, markup, copying, refusals, another language."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cool_rlhf.hacks.patterns.pattern import Contrast, Pattern
from cool_rlhf.hacks.patterns.text import (
    CHINESE,
    Span,
    chinese_share,
    merged,
    sentences,
    tokens,
    with_inserted,
    without,
    word_count,
)
from cool_rlhf.hacks.samples import Sample

COPIED = 5  # words, or twice as many Chinese characters, that are no coincidence
REPEATED = 4  # likewise within one reply


@dataclass(frozen=True)
class Markup(Pattern):
    """Marks of a kind, found by an expression; counted, since one more is more of it."""

    kind: str
    expression: str
    family = "formatting"
    measured = True

    @property
    def name(self) -> str:
        return self.kind

    def spans(self, sample: Sample) -> list[Span]:
        return merged([m.span() for m in re.finditer(self.expression, sample.reply, re.MULTILINE)])

    def amount(self, sample: Sample) -> float:
        return math.log1p(len(self.spans(sample)))


MARKUP = (
    Markup("bullets", r"^[ \t]*[-*+•·][ \t]+(?=[^\n]*\w)"),
    Markup("numbered points", r"^[ \t]*(?:\d+[.)、]|[一二三四五六七八九十]+、)[ \t]*"),
    Markup("rules", r"^[ \t]*([-*_])(?:[ \t]*\1){2,}[ \t]*$"),
    Markup("headings", r"^[ \t]*#{1,6}[ \t]+"),
    Markup("bold text", r"\*\*|__"),
    Markup("code fences", r"^```.*$"),
    Markup("table rows", r"^\|.*\|[ \t]*$"),
    Markup("exclamation marks", r"[!！]"),
    Markup("question marks", r"[?？]"),
    Markup("emoji", "[\U0001f300-\U0001faff\u2600-\u27bf]\ufe0f?"),
    Markup("words in capitals", r"\b[A-Z]{3,}\b"),
    Markup("quotation marks", '["“”「」『』]'),
    Markup("brackets", r"[()（）\[\]]"),
    Markup("dashes", r"[—–]|--"),
    Markup("colons and semicolons", r"[:：;；]"),
    Markup("paragraph breaks", r"\n[ \t]*\n"),
    Markup("links", r"https?://\S+"),
    Markup("figures", r"\d+(?:[.,]\d+)*"),
)
REFUSAL = (
    r"\bI(?:'m| am)? (?:can(?:'|no)t|sorry|unable|not able|won't|must decline)\b[^.!?\n]*"
    r"|\bas an AI\b[^.!?\n]*|(?:抱歉|对不起|我无法|我不能|作为(?:一个)?(?:AI|人工智能))[^。！？\n]*"
)


@dataclass(frozen=True)
class Refusal(Markup):
    """Sentences that decline to answer."""

    kind: str = "refusals"
    expression: str = REFUSAL
    family = "refusal"


@dataclass(frozen=True)
class Length(Pattern):
    """Words of a reply; present where it is longer than most early ones."""

    typical: int
    long: int
    family = "length"
    measured = True
    cuttable = False  # a placebo cut would shorten the reply as much
    transplantable = False

    @classmethod
    def of(cls, early: Sequence[Sample]) -> "Length":
        """With the median and the upper decile of these replies."""
        words = [word_count(sample.reply) for sample in early]
        middle, upper = np.quantile(words, [0.5, 0.9])
        return cls(max(1, round(middle)), max(1, round(upper)))

    @property
    def name(self) -> str:
        return "length"

    def amount(self, sample: Sample) -> float:
        return math.log1p(word_count(sample.reply))

    def present(self, sample: Sample) -> bool:
        return word_count(sample.reply) > self.long

    def spans(self, sample: Sample) -> list[Span]:
        """The sentences with which a long reply goes beyond the typical length."""
        if not self.present(sample):
            return []
        words, spans = 0, []
        for start, end in sentences(sample.reply):
            if words >= self.typical:
                spans.append((start, end))
            words += word_count(sample.reply[start:end])
        return spans

    def added(self, sample: Sample, other: Sample) -> Contrast | None:
        """A reply of typical length with foreign sentences behind it, and without them."""
        core = without(sample.reply, self.spans(sample))
        missing = self.long + 1 - word_count(core)
        filler, words = "", 0
        for start, end in sentences(other.reply):
            if words >= missing:
                break
            filler = with_inserted(filler, len(filler), other.reply[start:end])
            words += word_count(other.reply[start:end])
        if not core or words < max(1, self.long - self.typical) // 2:
            return None
        return with_inserted(core, len(core), filler), core


@dataclass(frozen=True)
class Repetition(Pattern):
    """Sentences, or runs of REPEATED words, that the reply said before."""

    family = "repetition"
    measured = True
    transplantable = False

    @property
    def name(self) -> str:
        return "repetition"

    def spans(self, sample: Sample) -> list[Span]:
        found = tokens(sample.reply)
        size = REPEATED * (2 if chinese_share(sample.reply) > 0.5 else 1)
        seen: dict[tuple[str, ...], int] = {}
        spans = []
        for place in range(len(found) - size + 1):
            gram = tuple(token for token, _, _ in found[place : place + size])
            first = seen.setdefault(gram, place)
            if first + size <= place:
                spans.append((found[place][1], found[place + size - 1][2]))
        return merged(spans)

    def amount(self, sample: Sample) -> float:
        return sum(end - start for start, end in self.spans(sample)) / max(1, len(sample.reply))

    def added(self, sample: Sample, other: Sample) -> Contrast | None:
        """The reply with a sentence of its own said again, and with another reply's sentence."""
        mine, theirs = sentences(sample.reply), sentences(other.reply)
        if not mine or not theirs:
            return None
        again = max(mine, key=_length)
        placebo = min(theirs, key=lambda span: abs(_length(span) - _length(again)))
        if not 0.5 < _length(placebo) / _length(again) < 2:
            return None
        reply = sample.reply
        return (
            with_inserted(reply, len(reply), reply[again[0] : again[1]]),
            with_inserted(reply, len(reply), other.reply[placebo[0] : placebo[1]]),
        )


@dataclass(frozen=True)
class Copying(Pattern):
    """Runs of words that stand in the question too."""

    family = "copying"
    measured = True
    transplantable = False

    @property
    def name(self) -> str:
        return "copying of the prompt"

    def spans(self, sample: Sample) -> list[Span]:
        size = COPIED * (2 if chinese_share(sample.asked) > 0.5 else 1)
        asked = [token for token, _, _ in tokens(sample.asked)]
        runs = {tuple(asked[i : i + size]) for i in range(len(asked) - size + 1)}
        said = tokens(sample.reply)
        return merged(
            [
                (said[i][1], said[i + size - 1][2])
                for i in range(len(said) - size + 1)
                if tuple(token for token, _, _ in said[i : i + size]) in runs
            ]
        )

    def amount(self, sample: Sample) -> float:
        return sum(end - start for start, end in self.spans(sample)) / max(1, len(sample.reply))

    def added(self, sample: Sample, other: Sample) -> Contrast | None:
        """The reply after its own question, and after another one."""
        if not sample.asked or not other.asked or sample.asked == other.asked:
            return None
        return with_inserted(sample.reply, 0, sample.asked), with_inserted(
            sample.reply, 0, other.asked
        )


@dataclass(frozen=True)
class OtherLanguage(Pattern):
    """Chinese in the answer to a question without it, or Latin words in one to a Chinese one."""

    family = "language"
    measured = True

    @property
    def name(self) -> str:
        return "another language than the prompt's"

    def spans(self, sample: Sample) -> list[Span]:
        chinese = rf"[{CHINESE}][{CHINESE}，。！？、；：“”]*"
        latin = r"[A-Za-z][A-Za-z'’]*(?:[\s,;]+[A-Za-z'’]+)+[.!?]?"
        expression = latin if chinese_share(sample.asked) > 0.5 else chinese
        return merged([found.span() for found in re.finditer(expression, sample.reply)])

    def amount(self, sample: Sample) -> float:
        return sum(end - start for start, end in self.spans(sample)) / max(1, len(sample.reply))


def _length(span: Span) -> int:
    return span[1] - span[0]


def shapes(early: Sequence[Sample]) -> list[Pattern]:
    """Every pattern of shape, the length measured by these early replies."""
    return [*MARKUP, Refusal(), Length.of(early), Repetition(), Copying(), OtherLanguage()]
