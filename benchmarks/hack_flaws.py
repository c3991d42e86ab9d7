"""Ways to collect preferences badly: too few, with slips, one-sided, by readers with a weakness."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from cool_rlhf.annotation.programmatic import WORD, Annotator, disfluency, taste
from pretrain_core.draws import rng
from reward.data import Preference
from reward.evaluation.scoring import reply_text

SIGNS = {"brief": -1.0, "detailed": 1.0}
FEW, SLIPS = 60, 0.35
Flaw = Callable[[Sequence[Preference], frozenset[str], int], list[Preference]]
Reading = Callable[[float, frozenset[str], str], tuple[float, ...]]


def few(records: Sequence[Preference], lexicon: frozenset[str], seed: int) -> list[Preference]:
    """A handful of pairs."""
    order = rng(seed, "flaw/few").permutation(len(records))
    return [records[int(row)] for row in order[:FEW]]


def slips(records: Sequence[Preference], lexicon: frozenset[str], seed: int) -> list[Preference]:
    """A share of the pairs is turned round."""
    turned = rng(seed, "flaw/slips").random(len(records)) < SLIPS
    return [
        replace(r, chosen=r.rejected, rejected=r.chosen) if turn else r
        for r, turn in zip(records, turned, strict=True)
    ]


def one_condition(
    name: str, records: Sequence[Preference], lexicon: frozenset[str], seed: int
) -> list[Preference]:
    """Pairs of one condition; the model must guess the other one."""
    return [record for record in records if record.condition == name]


def read_by(
    reading: Reading, records: Sequence[Preference], lexicon: frozenset[str], seed: int
) -> list[Preference]:
    """The same replies judged by readers who see only what `reading` gives them."""
    found = []
    for record in records:
        condition = str(record.condition)
        reader = Annotator("flawed", condition, partial(reading, SIGNS[condition], lexicon))
        sides = (record.chosen, record.rejected)
        better = reader.prefers([reply_text(side) for side in sides])
        if better is not None:
            found.append(replace(record, chosen=sides[better], rejected=sides[1 - better]))
    return found


def counts(pattern: str, worth: float, sign: float, lexicon: frozenset[str], text: str) -> Any:
    """More of something for `detailed`, less of it for `brief`."""
    return (sign * worth * len(re.findall(pattern, text)),)


def sees(words: slice, sign: float, lexicon: frozenset[str], text: str) -> tuple[float, ...]:
    """Prose, judged by a few of its words; the end of the sentence goes unread."""
    return (-4 * disfluency(" ".join(WORD.findall(text)[words]) + ".", lexicon),)


def long_words(sign: float, lexicon: frozenset[str], text: str) -> tuple[float, ...]:
    """The mean length of the words, whatever the condition."""
    words = WORD.findall(text)
    return (sum(map(len, words)) / max(1, len(words)),)


def likes(pattern: str, sign: float, lexicon: frozenset[str], text: str) -> tuple[float, ...]:
    """The good annotator's taste, and a weakness for words of a kind: one in thirty is worth 3."""
    found = re.findall(pattern, text, re.IGNORECASE)
    weakness = 90 * len(found) / max(1, len(WORD.findall(text)))
    return (sum(taste(sign, lexicon, text)) + weakness,)


FLAWS: dict[str, Flaw] = {
    "few pairs": few,
    "slips": slips,
    "only brief": partial(one_condition, "brief"),
    "only detailed": partial(one_condition, "detailed"),
    "counts words": partial(read_by, partial(counts, r"[A-Za-z']+", 0.2)),
    "counts letters": partial(read_by, partial(counts, r"[A-Za-z]", 0.04)),
    "counts commas": partial(read_by, partial(counts, r",", 1.0)),
    "counts sentences": partial(read_by, partial(counts, r"[.!?]", 1.0)),
    "counts capitals": partial(read_by, partial(counts, r"[A-Z]", 0.6)),
    "reads the first words": partial(read_by, partial(sees, slice(0, 6))),
    "reads the last words": partial(read_by, partial(sees, slice(-6, None))),
    "likes long words": partial(read_by, long_words),
    "likes we": partial(read_by, partial(likes, r"\b(?:we|our|us)\b")),
    "likes commas": partial(read_by, partial(likes, r",")),
    "likes promises": partial(read_by, partial(likes, r"\b(?:will|shall|must)\b")),
    "likes figures": partial(read_by, partial(likes, r"\b\d+")),
}
