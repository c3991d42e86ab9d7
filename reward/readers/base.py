"""What every reader shares: from raw columns to a checked `Preference`."""

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pretrain_core.chat import ChatError, Message, as_messages, conversation
from reward.inputs import RewardInputError, split_reply
from reward.preference import FIELDS, TEXT_FIELDS, Preference, PreferenceError
from reward.readers.files import Row

Messages = tuple[Message, ...]
Found = Preference | PreferenceError
METADATA = frozenset(FIELDS) - {"prompt", "chosen", "rejected"}


@dataclass(frozen=True)
class ReadOptions:
    """Defaults of a data set, and which pairs several replies to one prompt give."""

    condition: str | None = None
    source: str | None = None
    pairs: Literal["all", "adjacent"] = "all"


class Reader(Protocol):
    """One format; `fields` are the columns it uses."""

    name: str
    fields: frozenset[str]

    def recognise(self, record: Mapping[str, Any]) -> str | None:
        """Why this record is of the format, or None."""

    def read(self, rows: Iterable[Row], options: ReadOptions) -> Iterator[tuple[Row, Found]]:
        """Each preference, and each reason why a record gave none, with its row."""


class RecordReader:
    """A format in which every record stands for itself."""

    name: str
    fields: frozenset[str]

    def parse(self, record: Mapping[str, Any], options: ReadOptions) -> Iterator[Found]:
        """Preferences of one record; raises or yields PreferenceError."""
        raise NotImplementedError

    def read(self, rows: Iterable[Row], options: ReadOptions) -> Iterator[tuple[Row, Found]]:
        """Parse row by row."""
        for row in rows:
            try:
                for found in self.parse(checked(row.record, self.fields), options):
                    yield row, found
            except PreferenceError as error:
                yield row, error


def checked(record: object, fields: Iterable[str]) -> Mapping[str, Any]:
    """The record as an object; a misspelt field is refused, since its value would be lost."""
    if not isinstance(record, Mapping):
        raise PreferenceError(f"expected an object, got {type(record).__name__}")
    fields = list(fields)
    for key in record:
        near = difflib.get_close_matches(key, fields, n=1, cutoff=0.85)
        if near and key not in fields and near[0] not in record:
            raise PreferenceError(f"unknown field {key!r}; did you mean {near[0]!r}?")
    return record


def build(
    prompt: Messages,
    chosen: Messages,
    rejected: Messages,
    record: Mapping[str, Any],
    options: ReadOptions,
) -> Preference:
    """A checked preference with the record's metadata; raises PreferenceError."""
    if chosen == rejected:
        raise PreferenceError("chosen and rejected are identical", "identical sides")
    for name, reply in (("chosen", chosen), ("rejected", rejected)):
        _check_reply(name, prompt, reply)
    values = metadata(record)
    values["condition"] = values["condition"] or options.condition
    values["source"] = values["source"] or options.source
    return Preference(prompt, chosen, rejected, **values)


def messages_of(value: object, name: str) -> Messages:
    """Messages of a list; raises PreferenceError naming the column and the message."""
    if not isinstance(value, list | tuple):
        raise PreferenceError(
            f"{name!r} is {type(value).__name__}; expected a list of messages "
            "(TRL's conversational format)"
        )
    try:
        # Columnar files fill absent keys with nulls.
        return as_messages(
            [
                {key: part for key, part in item.items() if part is not None}
                if isinstance(item, Mapping)
                else item
                for item in value
            ]
        )
    except ChatError as error:
        raise PreferenceError(f"{name!r}: {error}") from error


def turn(role: str, content: object, name: str) -> Message:
    """One message of a text column; raises PreferenceError naming the column."""
    if not isinstance(content, str):
        raise PreferenceError(f"{name!r} is {type(content).__name__}; expected a text")
    return messages_of([{"role": role, "content": content}], name)[0]


def common_prefix(chosen: Sequence[Message], rejected: Sequence[Message]) -> Messages:
    """The turns that both sides begin with: an implicit prompt."""
    same = 0
    for left, right in zip(chosen, rejected, strict=False):
        if left != right:
            break
        same += 1
    if same == len(chosen) == len(rejected):
        raise PreferenceError("chosen and rejected are identical", "identical sides")
    return tuple(chosen[:same])


def metadata(record: Mapping[str, Any]) -> dict[str, Any]:
    """Checked optional fields of a record, None where absent."""
    values: dict[str, Any] = {name: _text(record, name) for name in TEXT_FIELDS}
    margin, round_ = record.get("margin"), record.get("round")
    if margin is not None and (
        isinstance(margin, bool) or not isinstance(margin, int | float) or not math.isfinite(margin)
    ):
        raise PreferenceError(f"'margin' is {margin!r}; expected a finite number")
    if round_ is not None and (isinstance(round_, bool) or not isinstance(round_, int)):
        raise PreferenceError(f"'round' is {round_!r}; expected a whole number")
    return values | {"margin": None if margin is None else float(margin), "round": round_}


def _text(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    if name == "id" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None:
        return None
    if not isinstance(value, str):
        raise PreferenceError(f"{name!r} is {type(value).__name__}; expected one text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PreferenceError(f"{name!r} is not valid Unicode: {error.reason}") from error
    return value


def _check_reply(name: str, prompt: Messages, reply: Messages) -> None:
    if not reply:
        raise PreferenceError(f"{name!r} has an empty reply", "empty reply")
    for message in reply:
        if message.role in ("user", "system"):
            raise PreferenceError(f"the reply in {name!r} contains a {message.role} turn")
    last = reply[-1]
    empty = last.role == "assistant" and not last.content.strip() and not last.actions
    try:
        conversation([*prompt, *reply])
        split_reply([*prompt, *reply])
    except (ChatError, RewardInputError) as error:
        raise PreferenceError(
            f"{name!r} with its prompt: {error}", "empty reply" if empty else "malformed"
        ) from error
