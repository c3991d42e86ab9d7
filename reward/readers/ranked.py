"""Ranked lists: several replies to one prompt, best first or with scores, taken as pairs."""

import math
from collections.abc import Iterator, Mapping
from itertools import combinations, pairwise
from typing import Any

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

LISTS = ("replies", "responses", "completions", "answers")
TEXTS = ("text", "content", "response", "completion")


class Ranked(RecordReader):
    """`prompt` and `replies`, best first; or scored in `scores` or beside each reply.

    Scores order replies, they do not become margins: their scale is the annotator's.
    """

    name = "ranked"
    fields = METADATA | {"prompt", "scores", *LISTS}

    def recognise(self, record: Mapping[str, Any]) -> str | None:
        """A list of replies."""
        for name in LISTS:
            if isinstance(record.get(name), list | tuple) and "prompt" in record:
                return f"columns prompt, {name} (a list)"
        return None

    def parse(self, record: Mapping[str, Any], options: ReadOptions) -> Iterator[Found]:
        """A preference per pair of unequal rank: all pairs, or each rank with the next."""
        name = next((name for name in LISTS if record.get(name) is not None), None)
        if name is None:
            raise PreferenceError(f"no list of replies (one of {', '.join(LISTS)})")
        value = record.get("prompt")
        prompt = (
            (turn("user", value, "prompt"),)
            if isinstance(value, str)
            else messages_of(value, "prompt")
        )
        replies = record[name]
        if not isinstance(replies, list | tuple) or len(replies) < 2:
            raise PreferenceError(f"{name!r} has no two replies to compare", "unpaired")
        ranked = _ranked([_reply(reply, name) for reply in replies], _scores(record, replies))
        if len(ranked) == 1:
            raise PreferenceError(f"all {len(replies)} replies have the same score", "tie")
        ranks = pairwise(ranked) if options.pairs == "adjacent" else combinations(ranked, 2)
        for better, worse in ranks:
            for i, chosen in better:
                for j, rejected in worse:
                    yield _pair(prompt, (i, chosen), (j, rejected), record, options)


def _pair(
    prompt: Messages,
    chosen: tuple[int, Messages],
    rejected: tuple[int, Messages],
    record: Mapping[str, Any],
    options: ReadOptions,
) -> Found:
    i, j = chosen[0], rejected[0]
    named = {"id": f"{record['id']}:{i}>{j}"} if record.get("id") is not None else {}
    try:
        return build(prompt, chosen[1], rejected[1], {**record, **named}, options)
    except PreferenceError as error:
        return PreferenceError(f"replies {i} and {j}: {error}", error.kind)


def _reply(value: object, name: str) -> Messages:
    if isinstance(value, list | tuple):
        return messages_of(value, name)
    if isinstance(value, Mapping):
        value = next((value[key] for key in TEXTS if value.get(key) is not None), None)
    return (turn("assistant", value, name),)


def _scores(record: Mapping[str, Any], replies: Any) -> list[float]:
    """A score per reply; the order of the list where none are given."""
    inside = [r.get("score") if isinstance(r, Mapping) else None for r in replies]
    given = record.get("scores")
    if given is None:
        if all(score is None for score in inside):
            return [-float(place) for place in range(len(replies))]
        given = inside
    if not isinstance(given, list | tuple) or len(given) != len(replies):
        raise PreferenceError(f"'scores' must hold one number for each of {len(replies)} replies")
    for score in given:
        if (
            isinstance(score, bool)
            or not isinstance(score, int | float)
            or not math.isfinite(score)
        ):
            raise PreferenceError(f"score {score!r} is no finite number")
    return [float(score) for score in given]


def _ranked(replies: list[Messages], scores: list[float]) -> list[list[tuple[int, Messages]]]:
    """Groups of (place in the list, reply) of equal score, best group first."""
    groups: dict[float, list[tuple[int, Messages]]] = {}
    for place, (reply, score) in enumerate(zip(replies, scores, strict=True)):
        groups.setdefault(score, []).append((place, reply))
    return [groups[score] for score in sorted(groups, reverse=True)]
