"""Messages of a conversation and the checks that a conversation must pass."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from pretrain_core.errors import InputError

Role = Literal["system", "user", "assistant", "environment"]
Tool = Literal["plugin", "interpreter"]

PLUGIN, INTERPRETER = "<|plugin|>", "<|interpreter|>"


class ChatError(InputError):
    """A conversation, template or tokenizer that cannot be used as asked."""


class Action(BaseModel):
    """A tool call at the end of an assistant turn (facts E2): JSON of a plug-in, or code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: Tool
    content: str


class Message(BaseModel):
    """One turn; `content` is plain text: strings in it that look like control tokens stay text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    content: str
    name: str | None = None
    actions: tuple[Action, ...] = ()

    @field_validator("name")
    @classmethod
    def _name_is_one_word_or_a_tool(cls, name: str | None) -> str | None:
        if name is None or name in (PLUGIN, INTERPRETER):
            return name
        if not name or any(c.isspace() or c in "<|>" for c in name):
            raise ValueError(f"name {name!r} must be one word, {PLUGIN} or {INTERPRETER}")
        return name

    @model_validator(mode="after")
    def _only_assistants_act(self) -> "Message":
        if self.actions and self.role != "assistant":
            raise ValueError(f"actions belong to assistant turns, not to {self.role} turns")
        return self

    def as_dict(self) -> dict[str, Any]:
        """The message as JSON-able mapping without its empty fields."""
        filled: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.name is not None:
            filled["name"] = self.name
        if self.actions:
            filled["actions"] = [action.model_dump() for action in self.actions]
        return filled


def as_messages(raw: Sequence[Mapping[str, Any] | Message]) -> tuple[Message, ...]:
    """Messages of mappings; raises `ChatError` naming the index of the first malformed one."""
    return tuple(_as_message(index, item) for index, item in enumerate(raw))


def conversation(raw: Sequence[Mapping[str, Any] | Message]) -> tuple[Message, ...]:
    """Check a conversation from data: known roles, no empty turns, at least one user turn.

    An environment turn may be empty (a tool without output), an assistant turn may consist of
    actions only. Raises `ChatError` naming the index of the turn at fault.
    """
    if isinstance(raw, str | Mapping):
        raise ChatError(f"a conversation is a list of messages, not {type(raw).__name__}")
    messages = as_messages(raw)
    if not messages:
        raise ChatError("the conversation has no messages")
    for index, message in enumerate(messages):
        silent = not message.content.strip() and not message.actions
        if silent and message.role != "environment":
            raise ChatError(f"message {index}: the {message.role} turn is empty")
    if not any(message.role == "user" for message in messages):
        raise ChatError(
            "the conversation has no user turn (roles: "
            + ", ".join(message.role for message in messages)
            + ")"
        )
    return messages


def _as_message(index: int, item: Mapping[str, Any] | Message) -> Message:
    if isinstance(item, Message):
        return item
    if not isinstance(item, Mapping):
        raise ChatError(f"message {index}: expected role and content, got {type(item).__name__}")
    try:
        return Message.model_validate(dict(item))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "message"
        raise ChatError(f"message {index}: {where}: {first['msg']}") from error
