"""Which condition a query is read under: its own field, the data set's default, or the router."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pretrain_core.errors import InputError

if TYPE_CHECKING:
    from reward.conditions.router import Router

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


def choose(
    record: Mapping[str, Any], default: str | None = None, router: "Router | None" = None
) -> Routed:
    """The record's condition, else `default`, else the router's.

    Raises RoutingError if none of them says, for a condition that is no text, or without a query.
    """
    condition = record.get("condition")
    if condition is not None:
        if not isinstance(condition, str):
            raise RoutingError(f"'condition' is {condition!r}; expected exactly one name")
        return Routed(condition, "field")
    if default is not None:
        return Routed(default, "data set")
    if router is None:
        raise RoutingError("no 'condition'")
    return router.route([query_text(record)])[0]


def confusion(truth: Sequence[str], found: Sequence[str]) -> tuple[list[str], list[list[int]]]:
    """(names, counts [true, found]); `found` may hold names that never are true."""
    names = sorted({*truth, *found})
    place = {name: index for index, name in enumerate(names)}
    counts = [[0] * len(names) for _ in names]
    for true, guess in zip(truth, found, strict=True):
        counts[place[true]][place[guess]] += 1
    return names, counts
