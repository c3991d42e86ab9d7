"""PolicyChat: our template, foreign templates, and templates that must be refused."""

import copy

import pytest
from transformers import PreTrainedTokenizerFast

from pretrain_core.chat import CHATML_TEMPLATE, ChatError, Message, PolicyChat, encode

FOREIGN = (
    "{% for m in messages %}{{ '[' ~ m['role'] ~ '] ' ~ m['content'] ~ '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
)
DROPS_SYSTEM = FOREIGN.replace("{{ '['", "{% if m['role'] != 'system' %}{{ '['", 1).replace(
    "'</s>\n' }}", "'</s>\n' }}{% endif %}", 1
)
REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    + FOREIGN
)
DROPS_ENVIRONMENT = DROPS_SYSTEM.replace("!= 'system'", "!= 'environment'")
REWRITES = (
    "{% for m in messages %}{{ '[' ~ m['role'] ~ '] ' }}"
    "{{ m['content'] ~ ('</s>' if loop.last else '|</s>') }}{% endfor %}"
)
CHAT = [
    Message(role="system", content="Be kind."),
    Message(role="user", content="Hello"),
    Message(role="assistant", content="Hi"),
    Message(role="user", content="More"),
    Message(role="assistant", content="Fine"),
]


def with_template(
    tokenizer: PreTrainedTokenizerFast, template: str | None
) -> PreTrainedTokenizerFast:
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


def test_our_template_gives_our_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = PolicyChat(with_template(tokenizer, CHATML_TEMPLATE))
    whole = encode(tokenizer, CHAT)
    assert chat.encode(CHAT) == whole
    prompt = chat.prompt(CHAT[:2])
    assert prompt == whole.tokens[: len(prompt)]
    assert chat.stop_token_ids[0] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    said = [t for t, m in zip(whole.tokens, whole.loss_mask, strict=True) if m]
    assert chat.reply(said) == "Hi"


def test_foreign_template_as_transformers_renders_it(tokenizer: PreTrainedTokenizerFast) -> None:
    foreign = with_template(tokenizer, FOREIGN)
    chat = PolicyChat(foreign)
    expected = foreign.apply_chat_template(
        [m.as_dict() for m in CHAT[:2]], add_generation_prompt=True, return_dict=False
    )
    assert chat.prompt(CHAT[:2]) == expected
    assert tokenizer.eos_token_id in chat.stop_token_ids
    encoded = chat.encode(CHAT)
    assert encoded.tokens[: len(expected)] == expected
    learned = [t for t, m in zip(encoded.tokens, encoded.loss_mask, strict=True) if m]
    assert foreign.decode(learned) == "Hi</s>Fine</s>"


def test_control_tokens_in_content_stay_text_in_a_foreign_template(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    chat = PolicyChat(with_template(tokenizer, FOREIGN))
    prompt = chat.prompt([Message(role="user", content="a</s>b")])
    stop = tokenizer.convert_tokens_to_ids("</s>")
    assert prompt.count(stop) == 1
    assert "a</s>b" in tokenizer.decode(prompt)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "no chat template"),
        (DROPS_SYSTEM, "drops the system role"),
        (REFUSES_SYSTEM, "refuses this conversation: no system"),
    ],
)
def test_unusable_templates_are_refused(
    tokenizer: PreTrainedTokenizerFast, template: str | None, said: str
) -> None:
    with pytest.raises(ChatError, match=said):
        PolicyChat(with_template(tokenizer, template))


def test_a_dropped_turn_a_rewritten_past_and_a_tool_call_are_refused(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    dropping = PolicyChat(with_template(tokenizer, DROPS_ENVIRONMENT))
    with pytest.raises(ChatError, match="message 1: the template drops its environment"):
        dropping.prompt([CHAT[1], Message(role="environment", content="12:00")])
    with pytest.raises(ChatError, match="rewrites earlier turns"):
        PolicyChat(with_template(tokenizer, REWRITES)).encode(CHAT)
    call = Message.model_validate(
        {"role": "assistant", "content": "", "actions": [{"tool": "plugin", "content": "{}"}]}
    )
    with pytest.raises(ChatError, match="tool calls need our ChatML"):
        PolicyChat(with_template(tokenizer, FOREIGN)).prompt([CHAT[1], call])


def test_reply_message_parses_trailing_calls_by_token(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = PolicyChat(with_template(tokenizer, CHATML_TEMPLATE))
    turn = Message.model_validate(
        {
            "role": "assistant",
            "content": "See <|action_start|>",
            "actions": [
                {"tool": "plugin", "content": "{}"},
                {"tool": "interpreter", "content": "print(1)"},
            ],
        }
    )
    encoded = encode(tokenizer, [turn])
    said = [t for t, m in zip(encoded.tokens, encoded.loss_mask, strict=True) if m]
    assert chat.reply_message(said) == turn
    broken = [t for t in said if tokenizer.convert_ids_to_tokens(t) != "<|action_start|>"]
    assert chat.reply_message(broken).actions == ()


@pytest.mark.parametrize("template", [CHATML_TEMPLATE, FOREIGN])
def test_a_continuation_joins_reply_and_next_turns_as_the_whole_is_encoded(
    tokenizer: PreTrainedTokenizerFast, template: str
) -> None:
    chat = PolicyChat(with_template(tokenizer, template))
    whole = chat.encode(CHAT)
    first = chat.prompt(CHAT[:2])
    until_stop = whole.loss_mask.index(False, whole.loss_mask.index(True))
    reply = whole.tokens[len(first) : until_stop]
    assert reply[-1] in chat.stop_token_ids
    joined = [*first, *reply, *chat.continuation([CHAT[3]])]
    assert joined == chat.prompt(CHAT[:4])


def test_a_continuation_keeps_control_tokens_of_an_answer_as_text(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    chat = PolicyChat(with_template(tokenizer, CHATML_TEMPLATE))
    tokens = chat.continuation([Message(role="environment", content="<|im_end|>")])
    assert tokens.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1


def test_a_template_that_rewrites_earlier_turns_has_no_continuation(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    chat = PolicyChat(with_template(tokenizer, REWRITES))
    with pytest.raises(ChatError, match="rewrites earlier turns"):
        chat.continuation([CHAT[3]])
