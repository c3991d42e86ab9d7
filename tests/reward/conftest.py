"""Fixtures of the reward tests: a registry of opposed conditions, preferences, one saved model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pretrain_core.chat import Message
from reward.conditions import Condition, Conditions
from reward.data import Preference
from reward.model import create_reward_model

WORDS = ("tree", "river", "stone", "cloud", "bread", "horse")


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Every test here."""


@pytest.fixture(scope="session")
def conditions() -> Conditions:
    return Conditions(
        [Condition("bright", "Prefer bright replies."), Condition("dark", "Prefer dark replies.")]
    )


@pytest.fixture(scope="session")
def reward_folder(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, conditions: Conditions
) -> Path:
    """A fresh reward model on the tiny SFT folder."""
    out = tmp_path_factory.mktemp("reward") / "model"
    return create_reward_model(model_folder, out, conditions, seed=7)


def say(role: str, content: str) -> Message:
    return Message.model_validate({"role": role, "content": content})


def pair(chosen: str, rejected: str, prompt: str = "Say it.", **fields: object) -> Preference:
    return Preference(
        (say("user", prompt),),
        (say("assistant", chosen),),
        (say("assistant", rejected),),
        **fields,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="session")
def make_pair() -> Callable[..., Preference]:
    return pair


@pytest.fixture(scope="session")
def opposed() -> Callable[[int, int], list[Preference]]:
    """Pairs that `bright` and `dark` judge in opposite ways, by the word a reply contains."""

    def make(count: int, seed: int) -> list[Preference]:
        draw = np.random.default_rng(seed)

        def reply(word: str) -> str:
            words = [*draw.choice(WORDS, size=int(draw.integers(2, 6))), word]
            draw.shuffle(words)
            return " ".join(words)

        records = []
        for number in range(count):
            sun, night = reply("sun"), reply("night")
            prompt = f"Number {int(draw.integers(1000))}."
            common = {"prompt": prompt, "id": str(number), "source": f"s{number % 2}"}
            records.append(pair(sun, night, condition="bright", **common))
            records.append(pair(night, sun, condition="dark", **common))
        return records

    return make
