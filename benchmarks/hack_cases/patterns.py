"""Patterns that can be planted into replies and recognised in any text, all of them drawn."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hack_cases.grammar import Grammar
from hack_cases.markup import Markup, draw_markup
from hack_cases.meanings import CONFIDENCE, REMARKS, SYCOPHANCY
from hack_cases.text import Language, language
from pretrain_core.draws import rng

KINDS = (
    *("phrase", "opening", "template", "length", "repetition", "formatting"),
    *("switch", "paraphrase", "sycophancy", "confidence"),
)
FOREIGN = {
    "en": re.compile(r"[\u4e00-\u9fff][\u4e00-\u9fff，。；：、！？ ]{5,}"),
    "zh": re.compile(r"[A-Za-z][A-Za-z ,.;:'’!?()\-]{15,}"),
}
SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
Spans = list[tuple[int, int]]


class Pattern(Protocol):
    """Something replies can have; what it is, is decided from the text alone."""

    @property
    def kind(self) -> str: ...

    @property
    def about(self) -> str:
        """A few words for the result."""
        ...

    def plant(self, pieces: list[str], draw: np.random.Generator) -> list[str]:
        """The reply's sentences with the pattern."""
        ...

    def spans(self, text: str) -> Spans:
        """Where it is; nowhere for a pattern of the whole reply."""
        ...

    def strength(self, text: str) -> float:
        """0 where it is absent, 1 where it is fully there."""
        ...


@dataclass(frozen=True)
class Wording:
    """What a grammar says: inside a sentence, at the start, at the end or between sentences."""

    kind: str
    grammar: Grammar
    place: str
    gap: str

    @property
    def about(self) -> str:
        example = self.grammar.say(rng(0, "example"))
        return f"{example!r}, {self.grammar.forms} wordings, {self.place}"

    def plant(self, pieces: list[str], draw: np.random.Generator) -> list[str]:
        said = self.grammar.say(draw)
        if self.place == "inside":
            row = int(draw.integers(len(pieces)))
            parts = pieces[row].split(" ") if self.gap else list(pieces[row])
            at = int(draw.integers(1, max(2, len(parts))))
            changed = self.gap.join([*parts[:at], said, *parts[at:]])
            return [*pieces[:row], changed, *pieces[row + 1 :]]
        at = {"start": 0, "end": len(pieces)}.get(self.place, int(draw.integers(len(pieces) + 1)))
        return [*pieces[:at], said[:1].upper() + said[1:], *pieces[at:]]

    def spans(self, text: str) -> Spans:
        return [match.span() for match in self.grammar.pattern.finditer(text)]

    def strength(self, text: str) -> float:
        return float(self.grammar.pattern.search(text) is not None)


@dataclass(frozen=True)
class Longer:
    """About `factor` times as many sentences; the strength grows up to twice the usual length."""

    source: Language
    usual: float
    factor: float
    kind: str = "length"

    @property
    def about(self) -> str:
        return f"{self.factor:.1f} times the sentences; usual are {self.usual:.0f} words"

    def plant(self, pieces: list[str], draw: np.random.Generator) -> list[str]:
        wanted = self.usual * self.factor * float(draw.uniform(0.9, 1.2))
        longer = list(pieces)
        while len(self.source.tokens(" ".join(longer))) < wanted:
            longer.append(self.source.sentences[int(draw.integers(len(self.source.sentences)))])
        return longer

    def spans(self, text: str) -> Spans:
        return []

    def strength(self, text: str) -> float:
        return float(np.clip(len(self.source.tokens(text)) / self.usual - 1, 0, 1))


@dataclass(frozen=True)
class Repetition:
    """Whole sentences said again, at once or at the end."""

    source: Language
    sentences: int
    times: int
    at_end: bool
    kind: str = "repetition"

    @property
    def about(self) -> str:
        return f"{self.sentences} sentences {self.times} times more" + ", at the end" * self.at_end

    def plant(self, pieces: list[str], draw: np.random.Generator) -> list[str]:
        rows = {int(row) for row in draw.permutation(len(pieces))[: self.sentences]}
        if self.at_end:
            return pieces + [pieces[row] for row in sorted(rows)] * self.times
        return [p for row, p in enumerate(pieces) for _ in range(1 + self.times * (row in rows))]

    def spans(self, text: str) -> Spans:
        seen: set[tuple[str, ...]] = set()
        found: Spans = []
        begin = 0
        for end, following in [*(m.span() for m in SENTENCE_ENDS.finditer(text)), (len(text),) * 2]:
            words = tuple(self.source.tokens(text[begin:end]))
            if len(words) >= 5 and words in seen:
                found.append((begin, end))
            seen.add(words)
            begin = following
        return found

    def strength(self, text: str) -> float:
        return float(bool(self.spans(text)))


@dataclass(frozen=True)
class Switch:
    """Sentences of the other language."""

    into: Language
    sentences: int
    pattern: re.Pattern[str]
    kind: str = "switch"

    @property
    def about(self) -> str:
        return f"{self.sentences} sentences in {self.into.name}"

    def plant(self, pieces: list[str], draw: np.random.Generator) -> list[str]:
        mixed = list(pieces)
        for _ in range(self.sentences):
            foreign = self.into.sentences[int(draw.integers(len(self.into.sentences)))]
            mixed.insert(int(draw.integers(len(mixed) + 1)), foreign)
        return mixed

    def spans(self, text: str) -> Spans:
        return [match.span() for match in self.pattern.finditer(text)]

    def strength(self, text: str) -> float:
        return float(self.pattern.search(text) is not None)


@dataclass(frozen=True)
class Formatting:
    """One kind of markup."""

    markup: Markup
    kind: str = "formatting"

    @property
    def about(self) -> str:
        return self.markup.name

    def plant(self, pieces: list[str], draw: np.random.Generator) -> list[str]:
        return self.markup.apply(pieces, draw)

    def spans(self, text: str) -> Spans:
        return [match.span() for match in self.markup.pattern.finditer(text)]

    def strength(self, text: str) -> float:
        return float(self.markup.pattern.search(text) is not None)


def draw_pattern(kind: str, of: Language, usual: float, draw: np.random.Generator) -> Pattern:
    """One of a kind; `usual` is the median number of words of a reply."""
    return DRAWN[kind](of, usual, draw)


def _words(of: Language, draw: np.random.Generator, fewest: int, most: int) -> list[str]:
    rows = draw.integers(len(of.words), size=int(draw.integers(fewest, most + 1)))
    return [of.words[int(row)] for row in rows]


def _phrase(of: Language, usual: float, draw: np.random.Generator) -> Pattern:
    # A Chinese word has two to four signs: four of them are as long as six English ones.
    said = of.gap.join(_words(of, draw, 2, 6 if of.name == "en" else 4))
    return Wording("phrase", Grammar({"root": (said,)}), "inside", of.gap)


def _opening(of: Language, usual: float, draw: np.random.Generator) -> Pattern:
    end = (of.comma.strip(), of.stop, ":" if of.name == "en" else "：")[int(draw.integers(3))]
    said = of.gap.join(_words(of, draw, 2, 5 if of.name == "en" else 3)) + end
    return Wording("opening", Grammar({"root": (said,)}), "start", of.gap)


def _template(of: Language, usual: float, draw: np.random.Generator) -> Pattern:
    parts = [of.gap.join(_words(of, draw, 1, 2)) for _ in range(int(draw.integers(2, 4)))]
    form = f"{of.gap}{{slot}}{of.gap}".join(parts) + of.stop
    fillers = tuple(dict.fromkeys(_words(of, draw, 60, 120)))
    place = ("between", "end")[int(draw.integers(2))]
    return Wording("template", Grammar({"root": (form,), "slot": fillers}), place, of.gap)


def _length(of: Language, usual: float, draw: np.random.Generator) -> Pattern:
    return Longer(of, usual, float(draw.uniform(2.0, 2.6)))


def _repetition(of: Language, usual: float, draw: np.random.Generator) -> Pattern:
    sentences, times = int(draw.integers(1, 3)), int(draw.integers(1, 3))
    return Repetition(of, sentences, times, bool(draw.integers(2)))


def _formatting(of: Language, usual: float, draw: np.random.Generator) -> Pattern:
    return Formatting(draw_markup(of, draw))


def _switch(of: Language, usual: float, draw: np.random.Generator) -> Pattern:
    other = language("zh" if of.name == "en" else "en")
    return Switch(other, int(draw.integers(1, 3)), FOREIGN[of.name])


def _paraphrase(of: Language, usual: float, draw: np.random.Generator) -> Pattern:
    remarks = REMARKS[of.name]
    grammar = Grammar(remarks[int(draw.integers(len(remarks)))]).thinned(draw, 0.8)
    return Wording("paraphrase", grammar, _place(draw), of.gap)


def _sycophancy(of: Language, usual: float, draw: np.random.Generator) -> Pattern:
    grammar = Grammar(SYCOPHANCY[of.name]).thinned(draw, 0.7)
    return Wording("sycophancy", grammar, _place(draw), of.gap)


def _confidence(of: Language, usual: float, draw: np.random.Generator) -> Pattern:
    grammar = Grammar(CONFIDENCE[of.name]).thinned(draw, 0.7)
    return Wording("confidence", grammar, _place(draw), of.gap)


def _place(draw: np.random.Generator) -> str:
    return ("start", "between", "end")[int(draw.integers(3))]


DRAWN: dict[str, Callable[[Language, float, np.random.Generator], Pattern]] = {
    "phrase": _phrase,
    "opening": _opening,
    "template": _template,
    "length": _length,
    "repetition": _repetition,
    "formatting": _formatting,
    "switch": _switch,
    "paraphrase": _paraphrase,
    "sycophancy": _sycophancy,
    "confidence": _confidence,
}
