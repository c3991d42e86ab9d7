"""Sampling ahead: which iterations are asked for when, what is logged, and what a resume asks."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import PreTrainedTokenizerFast

from actors.rollout import Finished, Request, Rollout, SamplingSettings
from actors.trajectories import RolloutLog
from cool_rlhf.ppo.sampling.ahead import RolloutsAhead
from cool_rlhf.ppo.sampling.prompts import Prompt
from pretrain_core.chat import Message, PolicyChat
from tests.cool_rlhf.ppo.sampling.conftest import Make
from tests.cool_rlhf.ppo.sampling.test_environment import COUNTS_TURNS, prompts

SAID = Message(role="user", content="q")


class LastFirst:
    """Stands where a stream stands: what came last ends first."""

    paused = staticmethod(nullcontext)

    def __init__(self, stop: int) -> None:
        self.stop = stop
        self.asked: list[Request] = []
        self.waiting: list[Request] = []
        self.closed = False

    def submit(self, requests: Sequence[Request]) -> None:
        self.asked += requests
        self.waiting += requests

    def take(self) -> Finished:
        request = self.waiting.pop()
        return Finished(request.id, [300, self.stop], [-1.0] * 2, None, "stop", [0, 1])

    def close(self) -> None:
        self.closed = True


def prompts_of(iteration: int) -> list[Prompt]:
    return [Prompt(f"p{iteration}{n}", (SAID,), "helpful", (4, 300, 5)) for n in range(2)]


def ahead(
    folder: Path, tokenizer: PreTrainedTokenizerFast, staleness: int, **changes: Any
) -> tuple[RolloutsAhead, LastFirst]:
    chat = PolicyChat(tokenizer)
    stream = LastFirst(chat.stop_token_ids[0])
    settings = {
        "rollout": cast(Rollout, cast(Any, type("Engine", (), {"engine": "vllm"}))),
        "log": RolloutLog(folder),
        "chat": chat,
        "sampling": SamplingSettings(),
        "samples_per_prompt": 1,
        "seed": 7,
        "context": 512,
        "prompts_of": prompts_of,
        "iterations": 4,
        "max_staleness": staleness,
    }
    made = RolloutsAhead(**settings | changes)  # type: ignore[arg-type]
    made.__dict__["_stream"] = stream
    return made, stream


def names(stream: LastFirst) -> list[str]:
    return [request.id for request in stream.asked]


@pytest.mark.parametrize("staleness", [1, 2])
def test_so_many_iterations_are_begun_before_their_turn_and_no_more(
    staleness: int, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    made, stream = ahead(tmp_path, tokenizer, staleness)
    for iteration in range(4):
        found = made.collect(iteration, prompts_of(iteration))
        assert [t.id for t in found] == [f"{iteration}/p{iteration}{n}/0" for n in range(2)]
        begun = {int(name.partition("/")[0]) for name in names(stream)}
        assert begun == set(range(min(iteration + staleness, 3) + 1))
    assert len(stream.asked) == len(set(names(stream))) == 8
    assert found[0].policy_version == [-1, -1, -1, 0, 1]
    made.close()
    assert stream.closed


def test_what_was_taken_out_of_the_stream_is_not_asked_for_after_a_resume(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    first, stream = ahead(tmp_path, tokenizer, 1)
    found = first.collect(0, prompts_of(0))
    # Those of the next iteration came first, and are durable.
    assert RolloutLog(tmp_path).iterations() == [0, 1]
    again, stream = ahead(tmp_path, tokenizer, 1)
    assert again.collect(0, prompts_of(0)) == found
    assert names(stream) == []
    again.collect(1, prompts_of(1))
    assert {name[0] for name in names(stream)} == {"2"}


def test_a_refused_reply_is_drawn_again_while_later_ones_are_under_way(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    made, stream = ahead(tmp_path, tokenizer, 1)
    found = made.collect(0, prompts_of(0))
    second = made.again(0, found, {found[1].id: "too long"})
    assert [t.id for t in second] == ["0/p00/0", "0/p01/0~1"]
    assert names(stream).count("0/p01/0~1") == 1


def test_conversations_go_on_through_the_stream(
    make: Make, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    chat = PolicyChat(tokenizer)
    asked = prompts(chat, 1, 2)
    made, stream = ahead(
        tmp_path,
        tokenizer,
        1,
        environment=make(COUNTS_TURNS),
        prompts_of=lambda iteration: asked,
        iterations=1,
    )
    found = made.collect(0, asked)
    assert [[m.role for m in t.messages].count("assistant") for t in found] == [1, 2]
    assert names(stream).count("0/p2/0") == 2
