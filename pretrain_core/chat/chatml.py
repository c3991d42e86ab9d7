"""ChatML with four roles, names and tool calls (facts E2): one segmentation, three views.

A conversation is cut into segments, each a control token or plain text; `render` joins them,
`encode` turns each into tokens. The jinja template says the same to other programs.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pretrain_core.chat.message import INTERPRETER, PLUGIN, ChatError, Message, as_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
ACTION_START, ACTION_END = "<|action_start|>", "<|action_end|>"
TOOL_TOKEN = {"plugin": PLUGIN, "interpreter": INTERPRETER}

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant', 'environment'] %}"
    "{{ raise_exception('unknown role ' ~ message['role']) }}"
    "{% endif %}"
    "{{ '<|im_start|>' ~ message['role'] }}"
    "{% if message['name'] %}{{ ' name=' ~ message['name'] }}{% endif %}"
    "{{ '\\n' ~ message['content'] }}"
    "{% for action in message['actions'] or [] %}"
    "{{ '<|action_start|><|' ~ action['tool'] ~ '|>\\n' ~ action['content'] }}"
    "{{ '<|action_end|>' }}"
    "{% endfor %}"
    "{{ '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Segment:
    """A control token (`control`) or plain text; `learn`: the policy produces it."""

    text: str
    control: bool = False
    learn: bool = False


@dataclass(frozen=True)
class Encoded:
    """Tokens of a conversation; `loss_mask` is True on assistant content and its `<|im_end|>`."""

    tokens: list[int]
    loss_mask: list[bool]


def segments(messages: Sequence[Message], generation_prompt: bool = False) -> Iterator[Segment]:
    """Cut a conversation into control tokens and plain text, in order; never yields empty text."""
    for message in messages:
        learn = message.role == "assistant"
        yield Segment(IM_START, control=True)
        if message.name in (PLUGIN, INTERPRETER):
            yield Segment(f"{message.role} name=")
            yield Segment(str(message.name), control=True)
            yield Segment("\n")
        else:
            name = f" name={message.name}" if message.name else ""
            yield Segment(f"{message.role}{name}\n")
        if message.content:
            yield Segment(message.content, learn=learn)
        for action in message.actions:
            yield Segment(ACTION_START, control=True, learn=learn)
            yield Segment(TOOL_TOKEN[action.tool], control=True, learn=learn)
            yield Segment("\n" + action.content, learn=learn)
            yield Segment(ACTION_END, control=True, learn=learn)
        yield Segment(IM_END, control=True, learn=learn)
        yield Segment("\n")
    if generation_prompt:
        yield Segment(IM_START, control=True)
        yield Segment("assistant\n")


def render(messages: Sequence[Mapping[str, Any] | Message], generation_prompt: bool = False) -> str:
    """The conversation as ChatML text, equal to what `CHATML_TEMPLATE` gives."""
    return "".join(s.text for s in segments(as_messages(messages), generation_prompt))


def encode(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, Any] | Message]
) -> Encoded:
    """Tokens and loss mask of a conversation in our ChatML.

    Content is tokenised on its own, so a prompt's tokens are a prefix of the conversation's and
    control-token strings in content stay text. Raises `ChatError` if the tokenizer lacks a token.
    """
    return _encode(tokenizer, segments(as_messages(messages)))


def encode_prompt(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, Any] | Message]
) -> list[int]:
    """Tokens of a conversation followed by the opening of an assistant turn."""
    return _encode(tokenizer, segments(as_messages(messages), generation_prompt=True)).tokens


def encode_continuation(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]
) -> list[int]:
    """Tokens of turns that follow a closed one, and the opening of an assistant turn.

    The first is what stands between an end of turn and the next turn.
    """
    parts = itertools.chain([Segment("\n")], segments(messages, generation_prompt=True))
    return _encode(tokenizer, parts).tokens


def control_id(tokenizer: "PreTrainedTokenizerBase", token: str) -> int:
    """Id of a control token; raises `ChatError` where the vocabulary has no such single token."""
    token_id = tokenizer.convert_tokens_to_ids(token)
    if token_id is None or tokenizer.convert_ids_to_tokens(token_id) != token:
        raise ChatError(f"the tokenizer has no control token {token}: add it as a special token")
    return int(token_id)


def plain_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Tokens of plain text; strings that look like special tokens are split like any text."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def _encode(tokenizer: "PreTrainedTokenizerBase", parts: Iterator[Segment]) -> Encoded:
    tokens: list[int] = []
    mask: list[bool] = []
    for part in parts:
        ids = (
            [control_id(tokenizer, part.text)] if part.control else plain_ids(tokenizer, part.text)
        )
        tokens += ids
        mask += [part.learn] * len(ids)
    return Encoded(tokens, mask)
