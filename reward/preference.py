"""The record of a judged pair, and what reading a file of them leaves."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pretrain_core.chat import Message
from pretrain_core.errors import InputError

__all__ = ["FIELDS", "TEXT_FIELDS", "Kind", "Preference", "PreferenceError", "PreferenceSet"]
__all__ += ["Quarantined"]

TEXT_FIELDS = ("condition", "source", "annotator", "id")
FIELDS = ("prompt", "chosen", "rejected", "margin", "round", *TEXT_FIELDS)

Kind = Literal[
    "malformed",
    "identical sides",
    "empty reply",
    "unpaired",
    "tie",
    "unknown condition",
    "too long",
]


class PreferenceError(InputError):
    """A record that is no usable preference; the message is the reason for its quarantine."""

    def __init__(self, message: str, kind: Kind = "malformed") -> None:
        super().__init__(message)
        self.kind = kind


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
    """A record set aside: 1-based line (or record, in files without lines), reason, the record."""

    line: int
    reason: str
    raw: str
    kind: Kind = "malformed"
    file: str = ""


@dataclass(frozen=True)
class PreferenceSet:
    """What a file held.

    `ignored_fields` counts columns that we do not use; `origins` has `file:line` of each record;
    `format` and `why` say how the file was read.
    """

    records: list[Preference]
    quarantined: list[Quarantined]
    ignored_fields: Counter[str] = field(default_factory=Counter)
    origins: list[str] = field(default_factory=list)
    format: str = "trl"
    why: str = ""

    def summary(self) -> str:
        """One sentence: how many records were read, how many set aside, the first reasons."""
        text = f"{len(self.records)} preferences"
        if self.quarantined:
            first = "; ".join(f"line {q.line}: {q.reason}" for q in self.quarantined[:3])
            text += f", {len(self.quarantined)} quarantined ({first})"
        return text if self.format == "trl" else f"{text}; read as {self.format}: {self.why}"


def prompt_keys(preferences: Sequence[Preference]) -> list[int]:
    """One number per record, equal for records of the same prompt, in order of first sight."""
    numbers: dict[tuple[Message, ...], int] = {}
    return [numbers.setdefault(p.prompt, len(numbers)) for p in preferences]
