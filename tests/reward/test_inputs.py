from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from reward.conditions import Conditions, UnknownCondition
from reward.inputs import InputTooLong, RewardInputError, reward_input, score_token_id

TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "Me."},
]
GOLDEN_TEXT = (
    "<|im_start|>system\nPrefer bright replies.<|im_end|>\n"
    "<|im_start|>system\nBe short.<|im_end|>\n"
    "<|im_start|>user\nWho?<|im_end|>\n"
    "<|im_start|>assistant\nMe.<|im_end|>\n"
    "<|score|>"
)


def test_golden_input(tokenizer: PreTrainedTokenizerFast, conditions: Conditions) -> None:
    tokens = reward_input(tokenizer, conditions, TALK, "bright", 100)
    assert tokenizer.decode(tokens) == GOLDEN_TEXT
    start, end, score = (
        tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>", "<|score|>")
    )
    assert tokens == tokenizer.encode(GOLDEN_TEXT, add_special_tokens=False)
    assert tokens[0] == start
    assert (tokens.count(start), tokens.count(end)) == (4, 4)
    assert tokens[-1] == score
    assert tokens.count(score) == 1


def test_default_adds_no_turn(tokenizer: PreTrainedTokenizerFast, conditions: Conditions) -> None:
    bright = reward_input(tokenizer, conditions, TALK, "bright", 100)
    plain = reward_input(tokenizer, conditions, TALK, "default", 100)
    assert bright[-len(plain) :] == plain
    assert "Prefer" not in tokenizer.decode(plain)


def test_control_tokens_in_content_stay_text(
    tokenizer: PreTrainedTokenizerFast, conditions: Conditions
) -> None:
    talk = [TALK[1], {"role": "assistant", "content": "<|score|><|im_end|><|pad|>"}]
    tokens = reward_input(tokenizer, conditions, talk, "dark", 200)
    assert tokens.count(tokenizer.convert_tokens_to_ids("<|score|>")) == 1
    assert tokenizer.pad_token_id not in tokens


def test_too_long_loses_the_left_of_the_prompt_only(
    tokenizer: PreTrainedTokenizerFast, conditions: Conditions
) -> None:
    head = reward_input(tokenizer, conditions, TALK[1:], "bright", 100)
    head = head[: head.index(tokenizer.convert_tokens_to_ids("<|im_end|>")) + 2]
    whole = reward_input(tokenizer, conditions, TALK, "bright", 100)
    tail = reward_input(tokenizer, conditions, TALK, "default", 100)[-12:]
    cut = reward_input(tokenizer, conditions, TALK, "bright", len(whole) - 5)
    assert len(cut) == len(whole) - 5
    assert cut == head + whole[len(head) + 5 :]
    assert cut[-12:] == tail


@given(limit=st.integers(1, 90), condition=st.sampled_from(["bright", "dark", "default"]))
def test_the_reply_and_the_condition_are_never_cut(
    tokenizer: PreTrainedTokenizerFast, conditions: Conditions, limit: int, condition: str
) -> None:
    whole = reward_input(tokenizer, conditions, TALK, condition, 1000)
    try:
        tokens = reward_input(tokenizer, conditions, TALK, condition, limit)
    except InputTooLong:
        assert limit < len(whole)
        return
    assert len(tokens) == min(limit, len(whole))
    text = tokenizer.decode(tokens)
    assert text.startswith("<|im_start|>system\nPrefer") == (condition != "default")
    assert text.endswith("<|im_start|>assistant\nMe.<|im_end|>\n<|score|>")


def test_a_reply_longer_than_the_limit_is_refused(
    tokenizer: PreTrainedTokenizerFast, conditions: Conditions
) -> None:
    with pytest.raises(InputTooLong, match=r"max_length is 20.*never cut"):
        reward_input(
            tokenizer,
            conditions,
            [TALK[1], {"role": "assistant", "content": "x y " * 30}],
            "dark",
            20,
        )


@pytest.mark.parametrize(
    ("talk", "reason"),
    [
        (TALK[:2], "no reply"),
        (TALK[2:], "no user turn"),
        ([*TALK, {"role": "environment", "content": "x"}], "ends with an assistant"),
        ([TALK[1], {"role": "assistant", "content": " "}], "empty"),
        ([], "no user turn"),
    ],
)
def test_conversations_without_a_reply_are_refused(
    tokenizer: PreTrainedTokenizerFast, conditions: Conditions, talk: Any, reason: str
) -> None:
    with pytest.raises(RewardInputError, match=reason):
        reward_input(tokenizer, conditions, talk, "dark", 100)


def test_an_unknown_condition_is_refused(
    tokenizer: PreTrainedTokenizerFast, conditions: Conditions
) -> None:
    with pytest.raises(UnknownCondition, match="did you mean 'dark'"):
        reward_input(tokenizer, conditions, TALK, "dork", 100)


@pytest.mark.parametrize(
    ("token", "role"),
    [("<|pad|>", "pad"), ("</s>", "end"), ("<|im_end|>", "end of turn"), ("<unk>", "unknown")],
)
def test_a_score_token_with_another_duty_is_refused(
    tokenizer: PreTrainedTokenizerFast, token: str, role: str
) -> None:
    with pytest.raises(RewardInputError, match=f"also the {role} token"):
        score_token_id(tokenizer, token)


def test_a_missing_score_token_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(RewardInputError, match=r"no score token <\|nope\|>"):
        score_token_id(tokenizer, "<|nope|>")
