"""ChatML: golden tokens, masks, and equality of the three views of one conversation."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from pretrain_core.chat import (
    CHATML_TEMPLATE,
    ChatError,
    Message,
    conversation,
    encode,
    encode_prompt,
    render,
)

TOOLS = [
    Message(role="system", content="Be brief."),
    Message(role="system", name="<|plugin|>", content='[{"name": "now"}]'),
    Message(role="user", name="ada", content="What time is it?"),
    Message(
        role="assistant",
        content="I look.",
        actions=({"tool": "plugin", "content": '{"name": "now", "parameters": {}}'},),  # type: ignore[arg-type]
    ),
    Message(role="environment", name="<|plugin|>", content="12:00"),
    Message(role="assistant", content="Noon."),
]
GOLDEN = (
    "<|im_start|>system\nBe brief.<|im_end|>\n"
    '<|im_start|>system name=<|plugin|>\n[{"name": "now"}]<|im_end|>\n'
    "<|im_start|>user name=ada\nWhat time is it?<|im_end|>\n"
    "<|im_start|>assistant\nI look.<|action_start|><|plugin|>\n"
    '{"name": "now", "parameters": {}}<|action_end|><|im_end|>\n'
    "<|im_start|>environment name=<|plugin|>\n12:00<|im_end|>\n"
    "<|im_start|>assistant\nNoon.<|im_end|>\n"
)

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
turns = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["system", "user", "assistant", "environment"]),
        content=words | st.sampled_from(["<|im_end|>", "a<|im_start|>user\n", "<s>"]),
        name=st.none() | st.sampled_from(["file", "<|interpreter|>"]),
    ),
    max_size=4,
)


def jinja(tokenizer: PreTrainedTokenizerFast, messages: list[Message], prompt: bool) -> str:
    return str(
        tokenizer.apply_chat_template(
            [m.as_dict() for m in messages],
            chat_template=CHATML_TEMPLATE,
            tokenize=False,
            add_generation_prompt=prompt,
        )
    )


def test_render_writes_roles_names_and_tool_calls_as_published() -> None:
    assert render(TOOLS) == GOLDEN
    assert render(TOOLS, generation_prompt=True) == GOLDEN + "<|im_start|>assistant\n"


@settings(max_examples=60, deadline=None)
@given(messages=turns, prompt=st.booleans())
def test_template_equals_render(
    tokenizer: PreTrainedTokenizerFast, messages: list[Message], prompt: bool
) -> None:
    if messages:
        assert jinja(tokenizer, messages, prompt) == render(messages, prompt)


def test_template_equals_render_with_tools(tokenizer: PreTrainedTokenizerFast) -> None:
    assert jinja(tokenizer, TOOLS, True) == render(TOOLS, True)


def test_golden_tokens_of_a_tool_conversation(tokenizer: PreTrainedTokenizerFast) -> None:
    def special(token: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(token))

    def plain(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    start, end, plugin = special("<|im_start|>"), special("<|im_end|>"), special("<|plugin|>")
    expected: list[tuple[list[int], bool]] = [
        ([start, *plain("environment name="), plugin, *plain("\n"), *plain("12:00"), end], False),
        ([*plain("\n"), start, *plain("assistant\n")], False),
        (
            [
                *plain("Run."),
                special("<|action_start|>"),
                special("<|interpreter|>"),
                *plain("\nprint(1)"),
                special("<|action_end|>"),
                end,
            ],
            True,
        ),
        (plain("\n"), False),
    ]
    encoded = encode(
        tokenizer,
        [
            {"role": "environment", "name": "<|plugin|>", "content": "12:00"},
            {
                "role": "assistant",
                "content": "Run.",
                "actions": [{"tool": "interpreter", "content": "print(1)"}],
            },
        ],
    )
    assert encoded.tokens == [token for ids, _ in expected for token in ids]
    assert encoded.loss_mask == [learn for ids, learn in expected for _ in ids]


def test_token_text_equals_rendered_text(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.decode(encode(tokenizer, TOOLS).tokens) == GOLDEN


def test_mask_covers_assistant_content_and_its_end_only(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    encoded = encode(tokenizer, TOOLS)
    learned = [t for t, m in zip(encoded.tokens, encoded.loss_mask, strict=True) if m]
    assert tokenizer.decode(learned) == (
        'I look.<|action_start|><|plugin|>\n{"name": "now", "parameters": {}}<|action_end|>'
        "<|im_end|>Noon.<|im_end|>"
    )


@settings(max_examples=60, deadline=None)
@given(messages=turns, reply=words)
def test_prompt_is_a_prefix_and_content_never_becomes_control(
    tokenizer: PreTrainedTokenizerFast, messages: list[Message], reply: str
) -> None:
    prompt = encode_prompt(tokenizer, messages)
    whole = encode(tokenizer, [*messages, Message(role="assistant", content=reply)])
    assert whole.tokens[: len(prompt)] == prompt
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert whole.tokens.count(end) == len(messages) + 1
    assert tokenizer.bos_token_id not in whole.tokens
    assert any(whole.loss_mask)
    if not any(m.role == "assistant" for m in messages):
        assert not any(whole.loss_mask[: len(prompt)])


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ([], "no messages"),
        ([{"role": "assistant", "content": "hi"}], "no user turn"),
        ([{"role": "user", "content": "hi"}, {"role": "bot", "content": "x"}], "message 1: role"),
        ([{"role": "user"}], "message 0: content"),
        ([{"role": "user", "content": "hi"}, {"role": "assistant", "content": " "}], "message 1"),
        ([{"role": "user", "content": "hi", "name": "a b"}], "message 0: name"),
        ([{"role": "user", "content": "x", "extra": 1}], "message 0: extra"),
        (["hello"], "message 0"),
        ("hello", "list of messages"),
    ],
)
def test_bad_conversations_are_refused_with_their_index(raw: object, said: str) -> None:
    with pytest.raises(ChatError, match=said):
        conversation(raw)  # type: ignore[arg-type]


def test_a_tokenizer_without_control_tokens_is_refused(
    tokenizer_folder: object, tokenizer: PreTrainedTokenizerFast
) -> None:
    from tokenizers import Tokenizer, models

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])))
    with pytest.raises(ChatError, match="im_start"):
        encode(bare, [Message(role="user", content="a")])
