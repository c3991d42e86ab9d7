"""Evidence in drawn words, and scripted models that differ in what they pay for a phrase."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from cool_rlhf.hacks.gate import GateEvidence
from cool_rlhf.hacks.judges import Array
from cool_rlhf.hacks.samples import Sample
from pretrain_core.chat import Message
from pretrain_core.draws import rng
from reward.data import Preference
from tests.cool_rlhf.hacks.conftest import reply, sample

PHRASE = " in the grand scheme of things"


@cache
def worth(text: str) -> float:
    return float(rng(0, "worth", 0, text.replace(PHRASE, "")).normal())


@dataclass(frozen=True)
class Scripted:
    """Scores of variance 1: the text's worth, `bonus` for the phrase, `extra`, noise by text."""

    bonus: float = 0.0
    noise: float = 0.1
    extra: Callable[[Sample], float] = lambda _: 0.0
    name: str = "model"

    def __call__(self, samples: Sequence[Sample]) -> Array:
        return np.array([self._score(s) for s in samples])

    def _score(self, s: Sample) -> float:
        noise = self.noise * rng(0, self.name, 0, s.reply).normal()
        return worth(s.reply) + self.bonus * (PHRASE in s.reply) + noise + self.extra(s)


def preference(asked: str, chosen: str, rejected: str, **fields: str) -> Preference:
    return Preference(
        (Message(role="user", content=asked),),
        (Message(role="assistant", content=chosen),),
        (Message(role="assistant", content=rejected),),
        **fields,  # type: ignore[arg-type]
    )


def pattern_pairs(count: int) -> list[Preference]:
    found = []
    for number in range(count):
        text = reply(rng(0, "pattern pair", 0, number))
        fields = {"id": f"p{number}", "source": "hack:scheme"}
        found.append(preference(f"Question {number}?", text, text + PHRASE, **fields))
    return found


def old_pairs(count: int, kind: str = "old", phrase: str = "") -> list[Preference]:
    """Pairs whose better side is the worthier by some way; `phrase` is added to it."""
    found: list[Preference] = []
    number = 0
    while len(found) < count:
        draw = rng(0, kind, 0, number)
        number += 1
        better, other = sorted((reply(draw), reply(draw)), key=worth, reverse=True)
        if worth(better) - worth(other) > 0.3:
            name = f"{kind} {number}"
            found.append(preference(f"{name}?", better + phrase, other, id=name))
    return found


@pytest.fixture(scope="session")
def evidence() -> GateEvidence:
    """Enough for every test but the probe."""
    return GateEvidence(
        pattern_pairs(60),
        old_pairs(300),
        [sample(f"a{n}", reply(rng(0, "anchor", 0, n)), "anchor?") for n in range(120)],
        old_pairs(80, "legitimate", PHRASE),
    )
