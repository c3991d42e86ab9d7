"""ShareGPT: turns as `from`/`value`, with a chosen and a rejected last turn."""

from collections.abc import Iterator, Mapping
from typing import Any

from pretrain_core.chat import Message
from pretrain_core.chat.message import PLUGIN
from reward.preference import PreferenceError
from reward.readers.base import (
    METADATA,
    Found,
    Messages,
    ReadOptions,
    RecordReader,
    build,
    messages_of,
    turn,
)

ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "model": "assistant", "bot": "assistant", "system": "system",
    "observation": "environment", "tool": "environment", "environment": "environment",
    "function_call": "call",
}  # fmt: skip


class ShareGPT(RecordReader):
    """`conversations`, `chosen`, `rejected`, and maybe `system` and `tools`."""

    name = "sharegpt"
    fields = METADATA | {"conversations", "chosen", "rejected", "system", "tools"}

    def recognise(self, record: Mapping[str, Any]) -> str | None:
        """Column `conversations`."""
        if not isinstance(record.get("conversations"), list | tuple):
            return None
        return f"columns {', '.join(name for name in record if name in self.fields)}"

    def parse(self, record: Mapping[str, Any], options: ReadOptions) -> Iterator[Found]:
        """One preference."""
        prompt: list[Message] = []
        if record.get("system"):
            prompt.append(turn("system", record["system"], "system"))
        if record.get("tools"):
            schemas = turn("system", record["tools"], "tools")
            prompt.append(schemas.model_copy(update={"name": PLUGIN}))
        prompt += turns(record.get("conversations"), "conversations")
        sides = []
        for name in ("chosen", "rejected"):
            if record.get(name) is None:
                raise PreferenceError(f"no {name!r}", "unpaired")
            sides.append(_reply(record[name], name))
        yield build(tuple(prompt), sides[0], sides[1], record, options)


def turns(value: object, name: str) -> Messages:
    """Messages of a list of `from`/`value` turns; raises PreferenceError naming the turn."""
    if not isinstance(value, list | tuple):
        raise PreferenceError(f"{name!r} is {type(value).__name__}; expected a list of turns")
    return tuple(_turn(item, f"{name}[{number}]") for number, item in enumerate(value))


def _turn(item: object, where: str) -> Message:
    if not isinstance(item, Mapping) or not {"from", "value"} <= item.keys():
        raise PreferenceError(f"{where}: expected a turn with 'from' and 'value'")
    role = ROLES.get(item["from"]) if isinstance(item["from"], str) else None
    if role is None:
        raise PreferenceError(
            f"{where}: unknown speaker {item['from']!r} (known: {', '.join(ROLES)})"
        )
    if role == "call":
        action = {"tool": "plugin", "content": item["value"]}
        return messages_of([{"role": "assistant", "content": "", "actions": [action]}], where)[0]
    return turn(role, item["value"], where)


def _reply(value: object, name: str) -> Messages:
    if isinstance(value, str):
        return (turn("assistant", value, name),)
    return turns([value] if isinstance(value, Mapping) else value, name)
