"""Preference records: TRL's conversational format, read with a quarantine, written back."""

import difflib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain_core.chat import ChatError, Message, as_messages, conversation
from pretrain_core.errors import InputError
from reward.conditions import Conditions, UnknownCondition
from reward.inputs import InputTooLong, RewardInputError, reward_input, split_reply

__all__ = [
    "InputTooLong",
    "Preference",
    "PreferenceError",
    "PreferenceSet",
    "Quarantined",
    "RewardInputError",
    "parse_preference",
    "read_preferences",
    "reward_input",
    "write_preferences",
]

TEXT_FIELDS = ("condition", "source", "annotator", "id")
FIELDS = ("prompt", "chosen", "rejected", "margin", "round", *TEXT_FIELDS)


class PreferenceError(InputError):
    """A record that is no usable preference; the message is the reason for its quarantine."""


@dataclass(frozen=True)
class Preference:
    """One judged pair: `chosen` beats `rejected` as a reply to `prompt`, under `condition`."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    condition: str | None = None
    margin: float | None = None
    source: str | None = None
    annotator: str | None = None
    round: int | None = None
    id: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able record in TRL's explicit-prompt form, empty fields left out."""
        record: dict[str, Any] = {
            side: [message.as_dict() for message in getattr(self, side)]
            for side in ("prompt", "chosen", "rejected")
        }
        optional = {name: getattr(self, name) for name in FIELDS[3:]}
        return record | {name: value for name, value in optional.items() if value is not None}


@dataclass(frozen=True)
class Quarantined:
    """A record set aside: 1-based line, reason, and the line as it stood."""

    line: int
    reason: str
    raw: str


@dataclass(frozen=True)
class PreferenceSet:
    """What a file held; `ignored_fields` counts columns that we do not use."""

    records: list[Preference]
    quarantined: list[Quarantined]
    ignored_fields: Counter[str] = field(default_factory=Counter)

    def summary(self) -> str:
        """One sentence: how many records were read, how many set aside, the first reasons."""
        text = f"{len(self.records)} preferences"
        if self.quarantined:
            first = "; ".join(f"line {q.line}: {q.reason}" for q in self.quarantined[:3])
            text += f", {len(self.quarantined)} quarantined ({first})"
        return text


def read_preferences(path: Path, conditions: Conditions | None = None) -> PreferenceSet:
    """Read a JSONL file; bad lines are quarantined with line and reason, never lost.

    With `conditions`, a record under an unknown condition is quarantined too.
    """
    records: list[Preference] = []
    quarantined: list[Quarantined] = []
    ignored: Counter[str] = Counter()
    with path.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                raw = json.loads(line)
                record = parse_preference(raw)
                if conditions is not None and record.condition is not None:
                    conditions.get(record.condition)
            except json.JSONDecodeError as error:
                quarantined.append(Quarantined(number, f"not JSON: {error.msg}", line.rstrip("\n")))
            except (PreferenceError, UnknownCondition) as error:
                quarantined.append(Quarantined(number, str(error), line.rstrip("\n")))
            else:
                records.append(record)
                ignored.update(key for key in raw if key not in FIELDS)
    return PreferenceSet(records, quarantined, ignored)


def write_preferences(path: Path, records: Iterable[Preference]) -> Path:
    """Write JSONL that `read_preferences` and TRL read; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as out:
        for record in records:
            out.write(json.dumps(record.as_dict(), ensure_ascii=False) + "\n")
    partial.replace(path)
    return path


def parse_preference(raw: object) -> Preference:
    """A record as a Preference, its implicit prompt extracted; raises `PreferenceError`."""
    if not isinstance(raw, Mapping):
        raise PreferenceError(f"expected an object, got {type(raw).__name__}")
    _refuse_misspelt(raw)
    sides = {name: _messages(raw, name) for name in ("chosen", "rejected")}
    prompt = _messages(raw, "prompt") if raw.get("prompt") is not None else None
    if prompt is None:
        prompt = _common_prefix(sides["chosen"], sides["rejected"])
        sides = {name: messages[len(prompt) :] for name, messages in sides.items()}
    for name, reply in sides.items():
        _check_reply(name, prompt, reply)
    if sides["chosen"] == sides["rejected"]:
        raise PreferenceError("chosen and rejected are identical")
    return Preference(prompt, sides["chosen"], sides["rejected"], **_optional(raw))


def _refuse_misspelt(raw: Mapping[str, Any]) -> None:
    for key in raw:
        near = difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.85)
        if near and key not in FIELDS and near[0] not in raw:
            raise PreferenceError(f"unknown field {key!r}; did you mean {near[0]!r}?")


def _messages(raw: Mapping[str, Any], name: str) -> tuple[Message, ...]:
    if raw.get(name) is None:
        raise PreferenceError(f"no {name!r}")
    value = raw[name]
    if not isinstance(value, list):
        raise PreferenceError(
            f"{name!r} is {type(value).__name__}; expected a list of messages "
            "(TRL's conversational format)"
        )
    try:
        return as_messages(value)
    except ChatError as error:
        raise PreferenceError(f"{name!r}: {error}") from error


def _common_prefix(
    chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[Message, ...]:
    same = 0
    for left, right in zip(chosen, rejected, strict=False):
        if left != right:
            break
        same += 1
    if same == len(chosen) == len(rejected):
        raise PreferenceError("chosen and rejected are identical")
    return chosen[:same]


def _check_reply(name: str, prompt: tuple[Message, ...], reply: tuple[Message, ...]) -> None:
    if not reply:
        raise PreferenceError(f"{name!r} has an empty reply")
    for message in reply:
        if message.role in ("user", "system"):
            raise PreferenceError(f"the reply in {name!r} contains a {message.role} turn")
    try:
        conversation([*prompt, *reply])
        split_reply([*prompt, *reply])
    except (ChatError, RewardInputError) as error:
        raise PreferenceError(f"{name!r} with its prompt: {error}") from error


def _optional(raw: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in TEXT_FIELDS:
        value = raw.get(name)
        if name == "id" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is not None and not isinstance(value, str):
            raise PreferenceError(f"{name!r} is {type(value).__name__}; expected one text")
        values[name] = value
    margin, round_ = raw.get("margin"), raw.get("round")
    if margin is not None and (
        isinstance(margin, bool) or not isinstance(margin, int | float) or not math.isfinite(margin)
    ):
        raise PreferenceError(f"'margin' is {margin!r}; expected a finite number")
    if round_ is not None and (isinstance(round_, bool) or not isinstance(round_, int)):
        raise PreferenceError(f"'round' is {round_!r}; expected a whole number")
    return values | {"margin": None if margin is None else float(margin), "round": round_}
