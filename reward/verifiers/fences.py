"""Fenced blocks of a markdown reply."""

import re
from dataclasses import dataclass

_FENCE = re.compile(
    r"^[ ]{0,3}(?P<fence>`{3,}|~{3,})[ ]*(?P<tag>[^\s`]*)[^\n`]*\n"
    r"(?P<body>.*?)^[ ]{0,3}(?P=fence)[`~]*[ ]*$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Fence:
    """One block: its language tag in lower case (may be empty) and its text."""

    tag: str
    body: str


def fences(reply: str) -> list[Fence]:
    """All closed fenced blocks, in order."""
    return [Fence(found["tag"].lower(), found["body"]) for found in _FENCE.finditer(reply)]


def last_fence(reply: str, *tags: str) -> str | None:
    """Text of the last block with one of the tags, else of the last block without a tag."""
    blocks = fences(reply)
    tagged = [block.body for block in blocks if block.tag in tags]
    plain = [block.body for block in blocks if not block.tag]
    found = tagged or plain
    return found[-1] if found else None


def without_fences(reply: str) -> str:
    """The reply's prose: the text outside its fenced blocks."""
    return _FENCE.sub("", reply)
