"""Requests that no engine could serve are refused before any work starts."""

import pytest
from pydantic import ValidationError

from actors.rollout.requests import (
    EngineFacts,
    Request,
    RequestError,
    SamplingSettings,
    check_requests,
    room_for,
)

FACTS = EngineFacts("hf", "float32", vocab_size=100, max_model_len=8)


@pytest.mark.parametrize(
    ("requests", "stop", "message"),
    [
        ([Request("a", [1] * 8, 0)], [], "request 'a': the prompt has 8 tokens, the context 8"),
        ([Request("a", [], 0)], [], "request 'a' has an empty prompt"),
        ([Request("a", [1], 0), Request("a", [1], 1)], [], "request 'a' is there twice"),
        ([Request("a", [1, 100], 0)], [], "token 100 is outside the vocabulary of 100"),
        ([Request("a", [-1, 1], 0)], [], "token -1 is outside"),
        ([Request("a", [1], -3)], [], "seed -3"),
        ([Request("a", [1], 0)], [100], "stop_token_ids: token 100"),
    ],
)
def test_bad_requests_are_named(requests: list[Request], stop: list[int], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_requests(requests, stop, FACTS)


def test_a_reply_ends_with_the_context() -> None:
    sampling = SamplingSettings(max_new_tokens=5)
    assert room_for(Request("a", [1] * 2, 0), sampling, 8) == 5
    assert room_for(Request("a", [1] * 7, 0), sampling, 8) == 1


def test_minimum_above_maximum_is_refused() -> None:
    with pytest.raises(ValidationError, match="min_new_tokens 6 exceeds max_new_tokens 5"):
        SamplingSettings(min_new_tokens=6, max_new_tokens=5)
