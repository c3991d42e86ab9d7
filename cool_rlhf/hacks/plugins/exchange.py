"""A prompt and its reply as other trainers hand them over, read as messages.

Prompts are messages, text under the policy's chat template, or such text without its control
tokens, as verl writes it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pretrain_core.chat import ChatError, Message, as_messages
from pretrain_core.errors import InputError
from reward.service.openrlhf import ROLES, UnreadableQuery, parse_query, template_of

BARE = re.compile(r"(?:\A|\n)(system|user|assistant)\n")
"""How a turn of ChatML begins once `<|im_start|>` and `<|im_end|>` are gone."""
THINKS = re.compile(r"\s*(?:<think>\s*(?:</think>\s*)?)?")
"""What a generation prompt may hold after `assistant`."""


class ExchangeError(InputError):
    """A prompt or reply that cannot be read as messages."""


@dataclass(frozen=True)
class Exchange:
    """`prompt` and the turns of its `reply`; `shape` says in words how the prompt was written."""

    prompt: tuple[Message, ...]
    reply: tuple[Message, ...]
    shape: str

    @property
    def said(self) -> str:
        """The reply's last text; raises ExchangeError where the reply does not end with a text."""
        last = self.reply[-1] if self.reply else None
        if last is None or last.role != "assistant" or last.actions:
            raise ExchangeError("the reply does not end with a text of the assistant")
        return last.content


def read_exchange(prompt: object, reply: object, plain: bool = False) -> Exchange:
    """Read what a trainer hands over; raises ExchangeError.

    `plain`: text under no known template is what the user said, instead of an error.
    """
    try:
        if not isinstance(prompt, str):
            return Exchange(_messages(prompt, "prompt"), _turns(reply), "messages")
        if template := template_of(prompt):
            if not isinstance(reply, str):
                raise ExchangeError(f"the prompt is text, the reply {type(reply).__name__}")
            *before, last = parse_query(prompt + reply, prompt)
            return Exchange(tuple(before), (last,), template.name)
        if plain:
            said = Message(role="user", content=prompt)
            return Exchange((said,), _turns(reply), "plain text")
        return Exchange(_bare(prompt), _turns(reply), "ChatML without its control tokens")
    except (ChatError, UnreadableQuery) as error:
        raise ExchangeError(str(error)) from error


def _turns(reply: object) -> tuple[Message, ...]:
    if isinstance(reply, str):
        return (Message(role="assistant", content=reply),)
    return _messages(reply, "reply")


def _messages(value: object, name: str) -> tuple[Message, ...]:
    # Columns of a Parquet file come back as arrays.
    turns = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise ExchangeError(f"the {name} is {type(value).__name__}; expected messages or text")
    return as_messages([_turn(turn) for turn in turns])


def _turn(turn: object) -> Any:
    """A turn with our names of roles, without what Parquet filled in for other rows."""
    if not isinstance(turn, Mapping):
        return turn
    filled = {key: value for key, value in turn.items() if value is not None}
    return filled | {"role": ROLES.get(str(filled.get("role")), filled.get("role"))}


def _bare(prompt: str) -> tuple[Message, ...]:
    """Turns of ChatML without control tokens, where there is only one way to read them."""
    marks = list(BARE.finditer(prompt))
    roles = [mark[1] for mark in marks]
    talk = roles[1:] if roles[:1] == ["system"] else roles
    begins = bool(marks) and marks[0].start() == 0
    if not begins or not talk or talk != ["user", "assistant"] * (len(talk) // 2):
        raise ExchangeError(
            "the prompt is no ChatML without control tokens (turns of user and assistant by turns, "
            "up to where the assistant begins): let the reward function return the prompt "
            "(ConditionalReward.verl does), so that the dump holds it"
        )
    if not THINKS.fullmatch(prompt, marks[-1].end()):
        raise ExchangeError("the prompt does not end where the assistant begins to speak")
    ends = [mark.start() for mark in marks[1:]]
    return as_messages(
        [
            {"role": mark[1], "content": prompt[mark.end() : end]}
            for mark, end in zip(marks, ends, strict=False)
        ]
    )
