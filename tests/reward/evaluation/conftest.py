"""A stand-in for a reward model whose scores are a known function of the text."""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pretrain_core.chat import Message, as_messages
from reward.conditions import DEFAULT, Conditions
from reward.inputs import RewardInputError, split_reply

Judge = Callable[[str, str, str], float]


class ScriptedModel:
    """Scores `judge(prompt, reply, condition)`; replies above `longest` characters are refused."""

    def __init__(self, judge: Judge, conditions: Conditions, longest: int = 10_000) -> None:
        self.judge, self.conditions, self.longest = judge, conditions, longest
        self.known: list[float] = []
        self.card = SimpleNamespace(max_length=longest, use_condition=True, calibration=None)
        self.version = "scripted"

    def input(
        self, messages: Sequence[Mapping[str, Any] | Message], condition: str | None
    ) -> list[int]:
        name = condition or DEFAULT
        self.conditions.get(name)
        prompt, reply = split_reply(as_messages(messages))
        text = "\n".join(m.content for m in reply)
        if len(text) > self.longest:
            raise RewardInputError("too long")
        self.known.append(self.judge("\n".join(m.content for m in prompt), text, name))
        return [len(self.known) - 1]

    def score(self, inputs: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor([self.known[tokens[0]] for tokens in inputs])

    def score_conversations(
        self, talks: Sequence[Sequence[Message]], names: Sequence[str | None]
    ) -> torch.Tensor:
        return self.score([self.input(t, n) for t, n in zip(talks, names, strict=True)])


@pytest.fixture
def scripted(conditions: Conditions) -> Callable[..., Any]:
    return lambda judge, **options: ScriptedModel(judge, conditions, **options)
