"""Wordings: phrases anywhere, openings, endings, and templates with a slot."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from cool_rlhf.hacks.patterns.pattern import Pattern
from cool_rlhf.hacks.patterns.text import CHINESE, TOKEN, Span, is_chinese, merged, tokens
from cool_rlhf.hacks.samples import Sample
from cool_rlhf.hacks.settings import MiningSettings

Place = Literal["phrase", "opening", "ending"]
Gram = tuple[str, ...]
SLOT = "…"
SLOT_WIDTH = {False: 3, True: 6}  # tokens that a slot may hold, of words and of Chinese characters
EDGE = 8  # tokens of the longest opening or ending


@dataclass(frozen=True)
class Phrase(Pattern):
    """A wording at its place; `gram` may hold one SLOT for some words that vary."""

    gram: Gram
    family: Place | Literal["template"] = "phrase"

    @property
    def name(self) -> str:
        text = "".join(
            f" {token}" if left and _spaced(left, token) else token
            for left, token in zip(("", *self.gram), self.gram, strict=False)
        )
        return f"{self.family} “{text}”"

    def spans(self, sample: Sample) -> list[Span]:
        return merged([found.span() for found in self._regex.finditer(sample.reply)])

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        chinese = any(is_chinese(token) for token in self.gram)
        slot = (
            rf"[^\n。！？]{{1,{SLOT_WIDTH[True]}}}?"
            if chinese
            else rf"\w+(?:[^\w\n.!?]+\w+){{0,{SLOT_WIDTH[False] - 1}}}?"
        )
        gap = r"[^\w\n]{0,2}" if chinese else r"[^\w]+"
        text = "".join(
            ("" if not left else r"\s?" if is_mark(token) or is_mark(left) else gap)
            + (slot if token == SLOT else re.escape(token))
            for left, token in zip(("", *self.gram), self.gram, strict=False)
        )
        if not is_chinese(self.gram[0]) and not is_mark(self.gram[0]):
            text = rf"(?<![^\W{CHINESE}]){text}"
        if not is_chinese(self.gram[-1]) and not is_mark(self.gram[-1]):
            text = rf"{text}(?![^\W{CHINESE}])"
        if self.family == "opening":
            text = rf"\A\W*{text}"
        if self.family == "ending":
            text = rf"{text}\W*\Z"
        return re.compile(text, re.IGNORECASE)


def is_mark(token: str) -> bool:
    """Whether a token of a gram is a mark that stands at a word, and no word or slot."""
    return token != SLOT and TOKEN.search(token) is None


def _spaced(left: str, token: str) -> bool:
    return not (is_mark(left) or is_mark(token) or is_chinese(token) or is_chinese(left))


Documents = Sequence[Sequence[str]]
Mask = npt.NDArray[np.bool_]


def propose_phrases(
    samples: Sequence[Sample], late: Mask, settings: MiningSettings
) -> list[tuple[Phrase, Mask]]:
    """Wordings in at least `least_replies` late replies, each with the replies [n] that have it."""
    documents = [[token for token, _, _ in tokens(sample.reply)] for sample in samples]
    found: list[tuple[Phrase, Mask]] = []
    for gram, rows in _grams(documents, late, settings).items():
        found.append((Phrase(gram), rows))
    for gram, rows in _templates(documents, late, settings).items():
        found.append((Phrase(gram, "template"), rows))
    for family, edge in (("opening", _opening), ("ending", _ending)):
        for gram, rows in _edges(documents, late, settings, edge).items():
            found.append((Phrase(gram, family), rows))  # type: ignore[arg-type]
    return found


def _frequent(
    having: dict[Gram, set[int]], late: Mask, settings: MiningSettings
) -> dict[Gram, Mask]:
    kept: dict[Gram, Mask] = {}
    for gram, numbers in having.items():
        if len(numbers) < settings.least_replies:
            continue
        rows = np.zeros(len(late), dtype=np.bool_)
        rows[list(numbers)] = True
        if (rows & late).sum() >= settings.least_replies:
            kept[gram] = rows
    return kept


def _grams(documents: Documents, late: Mask, settings: MiningSettings) -> dict[Gram, Mask]:
    """Level by level: a longer phrase is frequent only where both its shorter ones are."""
    found: dict[Gram, Mask] = {}
    alive = [list(range(len(document))) for document in documents]
    for length in range(1, max(settings.longest_phrase, settings.longest_chinese) + 1):
        having: dict[Gram, set[int]] = defaultdict(set)
        at: list[list[tuple[int, Gram]]] = []
        for number, (document, places) in enumerate(zip(documents, alive, strict=True)):
            grams = [
                (place, tuple(document[place : place + length]))
                for place in places
                if place + length <= len(document)
            ]
            grams = [(p, g) for p, g in grams if length <= _longest(g, settings)]
            at.append(grams)
            for _, gram in grams:
                having[gram].add(number)
        level = _frequent(having, late, settings)
        if not level:
            break
        found |= level
        kept = [{place for place, gram in grams if gram in level} for grams in at]
        alive = [
            [p for p in places if p in mine and p + 1 in mine]
            for places, mine in zip(alive, kept, strict=True)
        ]
    return found


def _longest(gram: Gram, settings: MiningSettings) -> int:
    chinese = all(is_chinese(token) for token in gram)
    return settings.longest_chinese if chinese else settings.longest_phrase


def _templates(documents: Documents, late: Mask, settings: MiningSettings) -> dict[Gram, Mask]:
    """Two frequent pairs of tokens with some tokens between them that vary."""
    pairs: dict[Gram, set[int]] = defaultdict(set)
    for number, document in enumerate(documents):
        for pair in pairwise(document):
            pairs[pair].add(number)
    frequent = _frequent(pairs, late, settings)
    fillings: dict[Gram, dict[Gram, set[int]]] = defaultdict(lambda: defaultdict(set))
    for number, document in enumerate(documents):
        firsts = [place for place, pair in enumerate(pairwise(document)) if pair in frequent]
        known = set(firsts)
        for place in firsts:
            width = SLOT_WIDTH[is_chinese(document[place])]
            for end in range(place + 3, place + 3 + width):
                if end in known:
                    gram = (*document[place : place + 2], SLOT, *document[end : end + 2])
                    fillings[gram][tuple(document[place + 2 : end])].add(number)
    # With one filling only it is a phrase, which is looked for elsewhere.
    varied = {
        gram: set().union(*by_filling.values())
        for gram, by_filling in fillings.items()
        if len(by_filling) > 1
    }
    return _frequent(varied, late, settings)


def _edges(
    documents: Documents,
    late: Mask,
    settings: MiningSettings,
    edge: Callable[[Sequence[str], int], Gram],
) -> dict[Gram, Mask]:
    having: dict[Gram, set[int]] = defaultdict(set)
    for number, document in enumerate(documents):
        for length in range(1, min(EDGE, len(document)) + 1):
            having[edge(document, length)].add(number)
    return _frequent(having, late, settings)


def _opening(document: Sequence[str], length: int) -> Gram:
    return tuple(document[:length])


def _ending(document: Sequence[str], length: int) -> Gram:
    return tuple(document[len(document) - length :])
