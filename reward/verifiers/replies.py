"""Files of replies to verify."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain_core.chat import ChatError, Message, as_messages
from pretrain_core.errors import InputError
from reward.inputs import RewardInputError, split_reply


class ReplyError(InputError):
    """A record that holds no reply to verify; the message is the reason for its quarantine."""


@dataclass(frozen=True)
class Reply:
    """One reply: 1-based line, the prompt before it, its text, what it should be, and for whom."""

    line: int
    prompt: tuple[Message, ...]
    text: str
    reference: str | None = None
    id: str | None = None
    condition: str | None = None


def read_replies(path: Path) -> tuple[list[Reply], dict[int, str]]:
    """Replies of a JSONL file, and line → reason of every record set aside.

    A record is {"messages"} ending with a reply, or {"prompt", "reply"}; "reference", "id" and
    "condition" are optional.
    """
    replies: list[Reply] = []
    quarantined: dict[int, str] = {}
    with path.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                replies.append(_reply(number, json.loads(line)))
            except json.JSONDecodeError as error:
                quarantined[number] = f"not JSON: {error.msg}"
            except (ReplyError, ChatError, RewardInputError) as error:
                quarantined[number] = str(error)
    return replies, quarantined


def reply_text(reply: Sequence[Message]) -> str:
    """What the assistant says in the turns of a reply, tool calls and tool outputs left out."""
    return "\n".join(message.content for message in reply if message.role == "assistant")


def reference_text(reference: object) -> str | None:
    """What verifiers compare with: tests and task entries are JSON in a file, text for them."""
    if reference is None or isinstance(reference, str):
        return reference
    return json.dumps(reference, ensure_ascii=False)


def _reply(number: int, raw: object) -> Reply:
    if not isinstance(raw, Mapping):
        raise ReplyError(f"expected an object, got {type(raw).__name__}")
    reference, name = reference_text(raw.get("reference")), raw.get("id")
    name = None if name is None else str(name)
    condition = raw.get("condition")
    if condition is not None and not isinstance(condition, str):
        raise ReplyError(f"'condition' is {type(condition).__name__}; expected a name")
    if "messages" in raw:
        prompt, turns = split_reply(_messages(raw, "messages"))
        return Reply(number, tuple(prompt), reply_text(turns), reference, name, condition)
    if not isinstance(raw.get("reply"), str):
        raise ReplyError('expected {"messages": […]}, or {"prompt": […], "reply": text}')
    prompt_messages = _messages(raw, "prompt") if raw.get("prompt") is not None else ()
    return Reply(number, prompt_messages, raw["reply"], reference, name, condition)


def _messages(raw: Mapping[str, Any], name: str) -> tuple[Message, ...]:
    if not isinstance(raw[name], list):
        raise ReplyError(f"{name!r} is {type(raw[name]).__name__}; expected a list of messages")
    return as_messages(raw[name])
