"""Replies that the reward model refuses: drawn again, counted, and never endlessly."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from actors.batch import Sequences
from actors.crew import Crew
from actors.forward import LogprobResult
from actors.scoring import SamplesRefused, Scored
from actors.trajectories import RolloutLog
from cool_rlhf.ppo.experience import ExperienceMaker
from cool_rlhf.ppo.prompts import Prompt
from cool_rlhf.ppo.settings import AlgorithmSettings
from pretrain_core.chat import Message
from tests.cool_rlhf.ppo.test_rollouts import CountingEngine, rollouts


class Answered:
    """A result that is there already."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def result(self) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


class PickyCrew:
    """Models that say zero of every token; the scorer refuses each sample `refusals` times."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        model = SimpleNamespace(logprobs=self.logprobs, values=self.values)
        self.policy = self.reference = self.critic = model
        self.scorer = SimpleNamespace(score=self.score)

    def score(self, talks: Sequence[Any], conditions: Sequence[str], names: list[str]) -> Answered:
        tries = [int(name.partition("~")[2] or 0) for name in names]
        pairs = zip(names, tries, strict=True)
        refused = {name: "too long" for name, tried in pairs if tried < self.refusals}
        scored = Scored([float(tried) for tried in tries], "v", [None for _ in tries])
        return Answered(SamplesRefused(refused) if refused else scored)

    def logprobs(self, batch: Sequences) -> Answered:
        zeros = torch.zeros(len(batch.tokens))
        return Answered(LogprobResult(zeros, zeros))

    def values(self, batch: Sequences) -> Answered:
        return Answered(torch.zeros(len(batch.tokens)))


def maker(refusals: int, folder: Path, tokenizer: PreTrainedTokenizerFast) -> ExperienceMaker:
    collecting = rollouts(CountingEngine(), folder, tokenizer)
    return ExperienceMaker(
        cast(Crew, PickyCrew(refusals)),
        collecting.log,
        collecting,
        AlgorithmSettings(resamples=2),
    )


PROMPT = Prompt("p", (Message(role="user", content="q"),), "helpful", (4, 300, 5))


def test_a_refused_reply_is_replaced_and_the_log_keeps_both(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    made = maker(2, tmp_path, tokenizer)
    batch = made.make(1, made.rollouts.collect(1, [PROMPT]))
    assert [t.id for t in batch.trajectories] == ["1/p/0~2", "1/p/1~2"] == [*batch.experience.ids]
    assert batch.scores.tolist() == [2.0, 2.0]
    assert batch.resampled == 4
    logged = RolloutLog(tmp_path).read(1)
    assert len(logged) == 6
    assert {name for name, t in logged.items() if t.scores} == {"1/p/0~2", "1/p/1~2"}


def test_a_prompt_that_is_always_refused_stops_the_run(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    made = maker(3, tmp_path, tokenizer)
    with pytest.raises(
        SamplesRefused, match="2 of the samples cannot be scored: 0/p/0~2: too long"
    ):
        made.make(0, made.rollouts.collect(0, [PROMPT]))
    assert len(RolloutLog(tmp_path).read(0)) == 6
