"""Collecting samples: the log first, the engine for the rest, every sample once."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import PreTrainedTokenizerFast

from actors.rollout import Finished, Request, Rollout, SamplingSettings
from actors.trajectories import RolloutLog
from cool_rlhf.ppo.sampling.prompts import Prompt
from cool_rlhf.ppo.sampling.rollouts import Rollouts
from pretrain_core.chat import Message, PolicyChat
from pretrain_core.errors import RunFailed


class CountingEngine:
    """Stands where an engine stands; answers in reverse order and may die half-way."""

    engine = "vllm"

    def __init__(self, survive: int = 1000) -> None:
        self.asked: list[Request] = []
        self.survive = survive

    def generate(self, requests: Sequence[Request], *_: Any) -> Iterator[Finished]:
        self.asked += requests
        for index, request in enumerate(reversed(requests)):
            if index == self.survive:
                raise ConnectionError("the engine died")
            yield Finished(request.id, [300, 5], [-1.0, -1.0], [-1.0, -1.0], "stop", [0, 0])


@pytest.fixture
def prompt() -> Prompt:
    return Prompt("p", (Message(role="user", content="q"),), "helpful", (4, 300, 5))


def rollouts(engine: CountingEngine, folder: Path, tokenizer: PreTrainedTokenizerFast) -> Rollouts:
    chat = PolicyChat(tokenizer)
    log = RolloutLog(folder)
    return Rollouts(cast(Rollout, engine), log, chat, SamplingSettings(), 2, seed=7, context=512)


def test_a_prompt_that_comes_twice_gives_samples_of_its_own(
    prompt: Prompt, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = CountingEngine()
    found = rollouts(engine, tmp_path, tokenizer).collect(3, [prompt, prompt])
    assert [t.id for t in found] == [f"3/p/{sample}" for sample in range(4)]
    assert len({request.seed for request in engine.asked}) == 4


def test_a_refused_reply_is_drawn_again_under_a_name_of_its_own(
    prompt: Prompt, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = CountingEngine()
    made = rollouts(engine, tmp_path, tokenizer)
    first = made.collect(0, [prompt])
    second = made.again(0, first, {"0/p/1": "too long"})
    third = made.again(0, second, {"0/p/1~1": "too long"})
    assert [t.id for t in second] == ["0/p/0", "0/p/1~1"]
    assert [t.id for t in third] == ["0/p/0", "0/p/1~2"]
    assert {tuple(request.tokens) for request in engine.asked} == {prompt.tokens}
    assert len({request.seed for request in engine.asked}) == 4
    # A resumed run finds the same replies in the log.
    assert (
        rollouts(CountingEngine(survive=0), tmp_path, tokenizer).again(
            0, first, {"0/p/1": "too long"}
        )
        == second
    )


def test_what_the_log_holds_is_never_sampled_again(
    prompt: Prompt, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    dying = CountingEngine(survive=1)
    with pytest.raises(ConnectionError):
        rollouts(dying, tmp_path, tokenizer).collect(0, [prompt])
    engine = CountingEngine()
    found = rollouts(engine, tmp_path, tokenizer).collect(0, [prompt])
    assert [request.id for request in engine.asked] == ["0/p/0"]
    assert [t.id for t in found] == ["0/p/0", "0/p/1"]
    assert rollouts(engine, tmp_path, tokenizer).collect(0, [prompt]) == found
    assert len(engine.asked) == 1


class Mortal(CountingEngine):
    """Dies after each reply, until it is brought back."""

    def generate(self, requests: Sequence[Request], *_: Any) -> Iterator[Finished]:
        replies = super().generate(requests)
        for _ in range(self.survive):
            yield next(replies)
        if len(requests) > self.survive:
            raise RunFailed("the engine died")


def test_dead_engines_are_revived_for_the_replies_that_are_missing(
    prompt: Prompt, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine, revived = Mortal(survive=1), []
    made = rollouts(engine, tmp_path, tokenizer)
    made = replace(made, revive=lambda failure: revived.append(str(failure)), restarts=1)
    found = made.collect(0, [prompt, prompt])
    assert [t.id for t in found] == [f"0/p/{n}" for n in range(4)]
    # One reply between two deaths counts as progress.
    assert revived == ["the engine died"] * 3
    assert [len(engine.asked)] == [4 + 3 + 2 + 1]


def test_engines_that_die_without_a_reply_end_the_run(
    prompt: Prompt, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    revived: list[object] = []
    made = rollouts(Mortal(survive=0), tmp_path, tokenizer)
    with pytest.raises(RunFailed, match="the engine died"):
        replace(made, revive=revived.append, restarts=2).collect(0, [prompt])
    assert len(revived) == 2
    # Without anybody to bring them back, the first death is the last.
    with pytest.raises(RunFailed, match="the engine died"):
        made.collect(0, [prompt])
