"""Samples of two policies in words of the standard library's help texts, and scripted judges."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pydoc_data.topics import topics

import numpy as np
import pytest

from cool_rlhf.hacks.judges import Array
from cool_rlhf.hacks.patterns.text import tokens
from cool_rlhf.hacks.samples import Comparison, Sample
from pretrain_core.chat import Message
from pretrain_core.draws import rng

WORDS = sorted(set(re.findall(r"[a-z]{3,8}", " ".join(topics.values()))))[::3]
Planting = Callable[[str, np.random.Generator], str]


@dataclass(frozen=True)
class World:
    """Replies of two policies; the judges value words alike, and may pay for a pattern."""

    comparison: Comparison
    pattern: re.Pattern[str]

    def judge(self, bonus: float, noise: float = 0.2, name: str = "judge") -> Callable[..., Array]:
        """Scores samples by their words, `bonus` for the pattern, and noise by text."""

        def score(samples: Sequence[Sample]) -> Array:
            return np.array([self._score(s.reply, bonus, noise, name) for s in samples])

        return score

    def _score(self, reply: str, bonus: float, noise: float, name: str) -> float:
        values = [word_value(token) for token, _, _ in tokens(reply)]
        own = noise * rng(0, name, 0, reply).normal()
        return 3 * float(np.mean(values)) + own + bonus * bool(self.pattern.search(reply))


@cache
def word_value(word: str) -> float:
    return float(rng(0, "quality", 0, word).normal())


def sentence(draw: np.random.Generator) -> str:
    words = [WORDS[int(row)] for row in draw.integers(len(WORDS), size=int(draw.integers(6, 12)))]
    return " ".join(words).capitalize() + "."


def reply(draw: np.random.Generator) -> str:
    return " ".join(sentence(draw) for _ in range(int(draw.integers(3, 7))))


def sample(id: str, text: str, asked: str = "What now?", **fields: str) -> Sample:
    return Sample(id, (Message(role="user", content=asked),), text, **fields)


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    def make(
        expression: str, plant: Planting, share: float = 0.2, prompts: int = 300, seed: int = 0
    ) -> World:
        """`plant` changes this share of the late replies."""
        early, late = [], []
        for number in range(prompts):
            draw = rng(seed, "world", 0, number)
            asked = f"What about {WORDS[int(draw.integers(len(WORDS)))]}?"
            early.append(sample(str(number), reply(draw), asked))
            text = reply(draw)
            text = plant(text, draw) if draw.random() < share else text
            late.append(sample(str(number), text, asked))
        return World(Comparison(tuple(early), tuple(late)), re.compile(expression, re.IGNORECASE))

    return make
