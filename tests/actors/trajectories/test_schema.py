"""The trajectory schema refuses everything that would let a wrong token reach the gradient."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from actors.trajectories import Score, Trajectory, Transcript
from pretrain_core.chat import Message

ASK = (Message(role="system", content="Be brief."), Message(role="user", content="2+2?"))
REPLY = Message(role="assistant", content="4")
TOOL = Message(role="environment", content="4")


def fields(**changes: Any) -> dict[str, Any]:
    per_token = Transcript().given([5, 6, 7]).sampled([8, 9], [3, 3], [-0.5, -0.1], [-0.7, -0.2])
    return {
        "id": "0-p-0",
        "iteration": 0,
        "sample": 0,
        "prompt_id": "p",
        "messages": (*ASK, REPLY),
        "finish_reason": "stop",
        "condition": "helpful",
        "seed": 7,
        "engine": "hf",
        **per_token.per_token(),
        **changes,
    }


def test_a_single_turn_knows_its_parts() -> None:
    trajectory = Trajectory(**fields())
    assert trajectory.given_messages == 2
    assert trajectory.actions == 2
    assert trajectory.prompt_tokens == [5, 6, 7]
    assert trajectory.reply_tokens == [8, 9]
    assert trajectory.policy_version == [-1, -1, -1, 3, 3]
    scored = trajectory.with_scores({"rm": Score(value=1.5, rm_version="v1")})
    assert (scored.scores["rm"].value, trajectory.scores) == (1.5, {})
    assert Score.model_validate_json('{"value": 1.5, "rm_version": "v1"}') == scored.scores["rm"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_action": [False] * 4}, "is_action has 4 entries for 5 tokens"),
        ({"raw_logprobs": [0.0]}, "raw_logprobs has 1 entries"),
        ({"policy_version": [-1, -1, -1, 3, -1]}, "token 4 is an action without"),
        ({"policy_version": [-1, 2, -1, 3, 3]}, "token 1 is no action"),
        ({"behaviour_logprobs": [0, 0, -1.0, -1.0, -1.0]}, "token 2 is no action"),
        ({"behaviour_logprobs": [0, 0, 0, 0.5, -1.0]}, "token 3 has a behaviour log-prob above"),
        ({"behaviour_logprobs": [0, 0, 0, float("nan"), -1.0]}, "finite"),
        ({"raw_logprobs": [0, 0, 0, float("-inf"), -1.0]}, "finite"),
        ({"tokens": [5, -6, 7, 8, 9]}, "token 1 is negative"),
        ({"finish_reason": "eos"}, "stop"),
        ({"condition": ""}, "condition"),
        ({"given_messages": 4}, "given_messages is 4 of 3"),
        ({"messages": (*ASK, REPLY, ASK[0]), "given_messages": 2}, "no system turns"),
        ({"messages": ASK}, "0 sampled assistant turns"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_inconsistent_fields_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Trajectory(**fields(**changes))


def tool_turns() -> dict[str, Any]:
    per_token = (
        Transcript()
        .given([1, 2])
        .sampled([3, 4], [0, 0], [-1.0, -1.0], None)
        .given([5, 6, 7])
        .sampled([8], [1], [-2.0], [-2.0])
        .per_token()
    )
    return fields(messages=(*ASK, REPLY, TOOL, REPLY), given_messages=2, **per_token)


def test_environment_tokens_are_never_actions() -> None:
    turns = tool_turns()
    trajectory = Trajectory(**turns)
    assert trajectory.policy_version == [-1, -1, 0, 0, -1, -1, -1, 1]
    assert trajectory.reply_tokens == [8]
    assert trajectory.raw_logprobs is None
    joined = {
        "is_action": [False, False] + [True] * 6,
        "policy_version": [-1, -1] + [0] * 6,
        "behaviour_logprobs": [0.0, 0.0] + [-1.0] * 6,
    }
    with pytest.raises(ValidationError, match="2 sampled assistant turns, but 1 runs"):
        Trajectory(**{**turns, **joined})


def test_an_aborted_turn_may_be_empty_but_no_other() -> None:
    empty = Transcript().given([1, 2]).sampled([], [], [], []).per_token()
    assert Trajectory(**fields(finish_reason="abort", **empty)).reply_tokens == []
    with pytest.raises(ValidationError, match="0 runs of action tokens"):
        Trajectory(**fields(finish_reason="length", **empty))


def test_logprobs_that_do_not_fit_the_reply_are_refused() -> None:
    with pytest.raises(ValueError, match="1 log-probs for a reply of 2 tokens"):
        Transcript().given([1]).sampled([2, 3], [0, 0], [-1.0], None)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=5),
    st.lists(st.floats(-50, 0), min_size=1, max_size=8),
)
def test_json_round_trips_exactly(prompt: list[int], logprobs: list[float]) -> None:
    versions = [2] * len(logprobs)
    sampled = Transcript().given(prompt).sampled(versions, versions, logprobs, logprobs)
    trajectory = Trajectory(**fields(**sampled.per_token()))
    assert Trajectory.model_validate_json(trajectory.model_dump_json()) == trajectory
