"""HH-RLHF: two transcripts that share their beginning, turns marked by `Human:`, `Assistant:`."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pretrain_core.chat import Message
from reward.preference import FIELDS, PreferenceError
from reward.readers.base import Found, ReadOptions, RecordReader, build, common_prefix, turn

# A turn starts after an empty line; elsewhere the words are text.
MARK = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


class HH(RecordReader):
    """`chosen`, `rejected` (and maybe `prompt`, the shared beginning): transcripts."""

    name = "hh"
    fields = frozenset(FIELDS)

    def recognise(self, record: Mapping[str, Any]) -> str | None:
        """A transcript in `prompt` or `chosen`."""
        for name in ("prompt", "chosen"):
            text = record.get(name)
            if isinstance(text, str) and (first := MARK.match(text)) and first[1] == "Human":
                return f"{name!r} is a transcript of Human: and Assistant: turns"
        return None

    def parse(self, record: Mapping[str, Any], options: ReadOptions) -> Iterator[Found]:
        """One preference, its prompt the turns that both transcripts share."""
        beginning = _text(record, "prompt") if record.get("prompt") is not None else ""
        chosen, rejected = (
            transcript(beginning + _text(record, name), name) for name in ("chosen", "rejected")
        )
        prompt = common_prefix(chosen, rejected)
        start = len(prompt)
        yield build(prompt, tuple(chosen[start:]), tuple(rejected[start:]), record, options)


def transcript(text: str, name: str) -> list[Message]:
    """Turns of a transcript, white space around each cut off."""
    marks = list(MARK.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        raise PreferenceError(f"{name!r} does not begin with 'Human:' or 'Assistant:'")
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [
        turn(ROLES[mark[1]], text[mark.end() : end].strip(), name)
        for mark, end in zip(marks, ends, strict=True)
    ]


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if value is None:
        raise PreferenceError(f"no {name!r}")
    if not isinstance(value, str):
        raise PreferenceError(f"{name!r} is {type(value).__name__}; expected a transcript")
    return value
