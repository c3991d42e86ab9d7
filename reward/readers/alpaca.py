"""Alpaca's columns as LLaMA-Factory uses them for preferences."""

from collections.abc import Iterator, Mapping
from typing import Any

from pretrain_core.chat import Message
from reward.preference import PreferenceError
from reward.readers.base import METADATA, Found, ReadOptions, RecordReader, build, turn


class Alpaca(RecordReader):
    """`instruction`, `input`?, `history`?, `system`?, and `chosen`, `rejected` texts.

    The older form has both replies in a list `output`, the better one first.
    """

    name = "alpaca"
    fields = METADATA | {
        "instruction", "input", "history", "system", "chosen", "rejected", "output"
    }  # fmt: skip

    def recognise(self, record: Mapping[str, Any]) -> str | None:
        """Column `instruction`, with two replies."""
        if "instruction" not in record:
            return None
        if "chosen" in record or "rejected" in record:
            return "columns instruction, chosen, rejected"
        return "columns instruction, output" if "output" in record else None

    def parse(self, record: Mapping[str, Any], options: ReadOptions) -> Iterator[Found]:
        """One preference."""
        prompt = [turn("system", record["system"], "system")] if record.get("system") else []
        prompt += _history(record.get("history"))
        asked = [record.get(name) or "" for name in ("instruction", "input")]
        if not all(isinstance(part, str) for part in asked):
            raise PreferenceError("'instruction' and 'input' are texts")
        prompt.append(turn("user", "\n".join(part for part in asked if part), "instruction"))
        chosen, rejected = (
            (turn("assistant", text, name),)
            for name, text in zip(("chosen", "rejected"), _replies(record), strict=True)
        )
        yield build(tuple(prompt), chosen, rejected, record, options)


def _history(value: object) -> list[Message]:
    turns: list[Message] = []
    if value is not None and not isinstance(value, list | tuple):
        raise PreferenceError(f"'history' is {type(value).__name__}; expected [[query, reply], …]")
    for number, exchange in enumerate(value or []):
        if not isinstance(exchange, list | tuple) or len(exchange) != 2:
            raise PreferenceError(f"'history' {number}: expected [query, reply]")
        turns += [
            turn(role, text, "history")
            for role, text in zip(("user", "assistant"), exchange, strict=True)
        ]
    return turns


def _replies(record: Mapping[str, Any]) -> tuple[object, object]:
    if "chosen" not in record and "rejected" not in record:
        output = record.get("output")
        if not isinstance(output, list | tuple) or len(output) != 2:
            raise PreferenceError(
                "no 'chosen' and 'rejected', and 'output' is not a list of two replies: "
                "one reply alone is no preference",
                "unpaired",
            )
        return output[0], output[1]
    for name in ("chosen", "rejected"):
        if record.get(name) is None:
            raise PreferenceError(f"no {name!r}")
    return record["chosen"], record["rejected"]
