"""TRL's preference format: messages or plain texts, the prompt given or implied."""

from collections.abc import Iterator, Mapping
from typing import Any

from reward.preference import FIELDS, Preference, PreferenceError
from reward.readers.base import (
    Found,
    Messages,
    ReadOptions,
    RecordReader,
    build,
    checked,
    common_prefix,
    messages_of,
    turn,
)


class TRL(RecordReader):
    """`prompt`?, `chosen`, `rejected`: lists of messages, or plain texts with a prompt."""

    name = "trl"
    fields = frozenset(FIELDS)

    def recognise(self, record: Mapping[str, Any]) -> str | None:
        """Columns `chosen` or `rejected`."""
        columns = [name for name in ("prompt", "chosen", "rejected") if name in record]
        if "chosen" not in columns and "rejected" not in columns:
            return None
        plain = all(isinstance(record[name], str) for name in columns)
        return f"columns {', '.join(columns)}, {'plain texts' if plain else 'messages'}"

    def parse(self, record: Mapping[str, Any], options: ReadOptions) -> Iterator[Found]:
        """One preference."""
        yield self.one(record, options)

    def one(self, record: Mapping[str, Any], options: ReadOptions) -> Preference:
        """The preference of a record; raises PreferenceError."""
        sides = {name: _side(record, name) for name in ("chosen", "rejected")}
        if isinstance(record["chosen"], str) != isinstance(record["rejected"], str):
            raise PreferenceError(
                "one side is a text, the other a list of messages: both must be of one kind"
            )
        if record.get("prompt") is not None:
            prompt = _prompt(record["prompt"])
            # Some data sets give the prompt and repeat it on both sides.
            if all(side[: len(prompt)] == prompt for side in sides.values()):
                sides = {name: side[len(prompt) :] for name, side in sides.items()}
        elif isinstance(record["chosen"], str):
            raise PreferenceError("plain texts need a 'prompt': nothing tells prompt from reply")
        else:
            prompt = common_prefix(sides["chosen"], sides["rejected"])
            sides = {name: side[len(prompt) :] for name, side in sides.items()}
        return build(prompt, sides["chosen"], sides["rejected"], record, options)


def _prompt(value: object) -> Messages:
    if isinstance(value, str):
        return (turn("user", value, "prompt"),)
    return messages_of(value, "prompt")


def _side(record: Mapping[str, Any], name: str) -> Messages:
    if record.get(name) is None:
        raise PreferenceError(f"no {name!r}")
    if isinstance(record[name], str):
        return (turn("assistant", record[name], name),)
    return messages_of(record[name], name)


def parse_preference(raw: object) -> Preference:
    """A record as a Preference, its implicit prompt extracted; raises `PreferenceError`."""
    return TRL().one(checked(raw, TRL.fields), ReadOptions())
