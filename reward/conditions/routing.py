"""What routing is about: queries, the conditions they are read under, and who chose them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pretrain_core.errors import InputError

By = Literal["field", "data set", "router", "fall-back"]


class RoutingError(InputError):
    """A record, router folder or training set that cannot be used for routing."""


@dataclass(frozen=True)
class Example:
    """A query with its true condition; examples of one `group` are never parted by a split."""

    text: str
    condition: str
    group: str = ""


@dataclass(frozen=True)
class Routed:
    """The condition, who chose it, and how sure the classifier was (None if it was not asked)."""

    condition: str
    by: By
    confidence: float | None = None


def query_text(record: Mapping[str, Any]) -> str:
    """What a record asks: `text`, or the user turns of `prompt`, `messages` or `chosen`.

    Raises RoutingError where there is none.
    """
    for name in ("text", "prompt", "messages", "chosen"):
        value = record.get(name)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, list):
            asked = [m.get("content") for m in value if _is_user(m)]
            if asked and all(isinstance(text, str) for text in asked):
                return "\n".join(asked)
    raise RoutingError("no query: expected 'text', or 'prompt' with a user turn")


def _is_user(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "user"


def confusion(truth: Sequence[str], found: Sequence[str]) -> tuple[list[str], list[list[int]]]:
    """(names, counts [true, found]); `found` may hold names that never are true."""
    names = sorted({*truth, *found})
    place = {name: index for index, name in enumerate(names)}
    counts = [[0] * len(names) for _ in names]
    for true, guess in zip(truth, found, strict=True):
        counts[place[true]][place[guess]] += 1
    return names, counts
