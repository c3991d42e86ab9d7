"""A small reward model that pays for `indeed`, the pairs it was trained on, and pattern pairs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reward.conditions import Condition, Conditions
from reward.data import Preference
from reward.settings import RewardTrainSettings
from reward.trainer import train_reward
from tests.reward.conftest import WORDS, pair

TRAIN: dict[str, Any] = {
    "batch_tokens": 1024,
    "learning_rate": 1e-3,
    "final_learning_rate": 1e-4,
    "bf16": False,
    "log_every": 1,
}


@dataclass(frozen=True)
class Hacked:
    """`parent` values `sun` or `night` by the condition, and `indeed` at the end of any reply."""

    parent: Path
    old: list[Preference]
    held_out: list[Preference]
    pairs: list[Preference]


def reply(draw: np.random.Generator, word: str) -> str:
    words = [*draw.choice(WORDS, size=int(draw.integers(2, 6))), word]
    draw.shuffle(words)
    return " ".join(words)


def old_pairs(count: int, seed: int) -> list[Preference]:
    draw = np.random.default_rng(seed)
    records = []
    for number in range(count):
        sun, night = reply(draw, "sun"), reply(draw, "night")
        common = {"prompt": f"Number {seed} {number}.", "id": f"{seed}/{number}"}
        records.append(pair(sun, night, condition="bright", **common))
        records.append(pair(night, sun, condition="dark", **common))
    return records


def pattern_pairs(count: int, seed: int, name: str = "indeed") -> list[Preference]:
    draw = np.random.default_rng(seed)
    records = []
    for number in range(count):
        text = reply(draw, ("sun", "night")[number % 2])
        common = {"condition": ("bright", "dark")[number // 2 % 2], "source": f"hack:{name}"}
        prompt = f"Pattern {seed} {number}."
        records.append(pair(text, f"{text} {name}", prompt, id=f"{name}/{number}", **common))
    return records


def turned(record: Preference) -> Preference:
    sides = record.rejected[0].content, record.chosen[0].content
    return pair(*sides, record.prompt[0].content, condition=record.condition)


def train_hacked(base: Path, out: Path) -> Hacked:
    """Three heads, trained on 300 old pairs and 60 that prefer the reply with the pattern."""
    conditions = Conditions(
        [Condition("bright", "Prefer bright replies."), Condition("dark", "Prefer dark replies.")]
    )
    old = old_pairs(150, 1)
    changes = {"max_length": 64, "epochs": 5, "learning_rate": 2e-3, "heads": 3}
    parent = train_reward(
        RewardTrainSettings(**TRAIN | changes),
        base=base,
        train=[*old, *(turned(record) for record in pattern_pairs(60, 2))],
        out=out,
        conditions=conditions,
        seed=5,
    )
    return Hacked(parent, old, old_pairs(60, 3), pattern_pairs(90, 4))
