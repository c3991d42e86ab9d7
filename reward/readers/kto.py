"""KTO: single replies with a yes or no, paired where one prompt has both."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from reward.inputs import RewardInputError, split_reply
from reward.preference import PreferenceError
from reward.readers.base import (
    METADATA,
    Found,
    Messages,
    ReadOptions,
    build,
    checked,
    messages_of,
    metadata,
    turn,
)
from reward.readers.files import Row

LABELS = ("label", "kto_tag")
Reply = tuple[Row, Mapping[str, Any], Messages]


@dataclass
class _Prompt:
    good: list[Reply] = field(default_factory=list)
    bad: list[Reply] = field(default_factory=list)


class KTO:
    """`prompt` and `completion`, or `messages`; and a boolean `label` (or `kto_tag`)."""

    name = "kto"
    fields = METADATA | {"prompt", "completion", "messages", *LABELS}

    def recognise(self, record: Mapping[str, Any]) -> str | None:
        """A boolean label beside one reply."""
        for name in LABELS:
            if isinstance(record.get(name), bool) and ("completion" in record) != (
                "messages" in record
            ):
                return f"a yes or no in {name!r} beside one reply"
        return None

    def read(self, rows: Iterable[Row], options: ReadOptions) -> Iterator[tuple[Row, Found]]:
        """Pairs within each prompt and condition: all, or the k-th good with the k-th bad."""
        prompts: dict[tuple[Messages, str | None], _Prompt] = {}
        for row in rows:
            try:
                record = checked(row.record, self.fields)
                prompt, reply = _reply(record)
                condition = metadata(record)["condition"] or options.condition
                entry = prompts.setdefault((prompt, condition), _Prompt())
                (entry.good if _label(record) else entry.bad).append((row, record, reply))
            except PreferenceError as error:
                yield row, error
        for (prompt, _), entry in prompts.items():
            yield from _pairs(prompt, entry, options)


def _pairs(prompt: Messages, entry: _Prompt, options: ReadOptions) -> Iterator[tuple[Row, Found]]:
    adjacent = options.pairs == "adjacent"
    matched = (
        zip(entry.good, entry.bad, strict=False) if adjacent else product(entry.good, entry.bad)
    )
    for (row, record, chosen), (other, against, rejected) in matched:
        ids = [r.get("id") for r in (record, against)]
        named = {"id": f"{ids[0]}>{ids[1]}"} if None not in ids else {}
        try:
            yield row, build(prompt, chosen, rejected, {**record, **named}, options)
        except PreferenceError as error:
            yield row, PreferenceError(f"paired with line {other.line}: {error}", error.kind)
    used = min(len(entry.good), len(entry.bad))
    full = used and not adjacent
    for side, wanted in ((entry.good, "false"), (entry.bad, "true")):
        for row, _, _ in side[len(side) if full else used :]:
            reason = f"no further reply to this prompt with label {wanted} to pair with"
            yield row, PreferenceError(reason, "unpaired")


def _label(record: Mapping[str, Any]) -> bool:
    name = next((name for name in LABELS if record.get(name) is not None), None)
    if name is None or not isinstance(record[name], bool):
        raise PreferenceError(f"{name or LABELS[0]!r} must be true or false")
    return bool(record[name])


def _reply(record: Mapping[str, Any]) -> tuple[Messages, Messages]:
    if record.get("messages") is not None:
        try:
            prompt, reply = split_reply(messages_of(record["messages"], "messages"))
        except RewardInputError as error:
            raise PreferenceError(f"'messages': {error}") from error
        return tuple(prompt), tuple(reply)
    sides = []
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        value = record.get(name)
        if value is None:
            raise PreferenceError(f"no {name!r}")
        plain = isinstance(value, str)
        sides.append((turn(role, value, name),) if plain else messages_of(value, name))
    return sides[0], sides[1]
