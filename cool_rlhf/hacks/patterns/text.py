"""Tokens and sentences of English and Chinese text, with the places where they stand."""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

Span = tuple[int, int]
"""Characters [start, end) of a reply."""

CHINESE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
TOKEN = re.compile(rf"[{CHINESE}]|[^\W_{CHINESE}]+(?:['’][^\W_{CHINESE}]+)*")
_ONE_CHINESE = re.compile(f"[{CHINESE}]")
_CLOSING = "[\"'”’」』)）*]*"
# A sentence ends with its marks and closing quotes, or with its line.
_END = re.compile(rf"[.!?…]+{_CLOSING}(?:\s+|$)|[。！？]+{_CLOSING}\s*|\n\s*")
_LIST_NUMBER = re.compile(r"\s*\d+\.\s*")


def tokens(text: str) -> list[tuple[str, int, int]]:
    """(token, start, end): words in lower case, Chinese characters one by one."""
    return [(found[0].lower(), found.start(), found.end()) for found in TOKEN.finditer(text)]


@lru_cache(maxsize=1 << 15)
def word_count(text: str) -> int:
    """Tokens of a text; every pattern asks for those of the same replies."""
    return len(TOKEN.findall(text))


def is_chinese(token: str) -> bool:
    """Whether the token is a character of a script without spaces."""
    return _ONE_CHINESE.match(token) is not None


def chinese_share(text: str) -> float:
    """Share of Chinese characters among all letters; 0 for a text without letters."""
    chinese = len(re.findall(rf"[{CHINESE}]", text))
    letters = sum(character.isalpha() for character in text)
    return chinese / letters if letters else 0.0


def sentences(text: str) -> list[Span]:
    """Sentences and lines with the space that follows them; together they are the text."""
    spans: list[Span] = []
    start = 0
    for end in [*(found.end() for found in _END.finditer(text)), len(text)]:
        if end == start or (end < len(text) and _LIST_NUMBER.fullmatch(text, start, end)):
            continue
        if TOKEN.search(text, start, end) is None and spans:
            spans[-1] = (spans[-1][0], end)  # marks alone belong to what they follow
        else:
            spans.append((start, end))
        start = end
    return spans


def merged(spans: Sequence[Span]) -> list[Span]:
    """The same characters in order, without overlaps."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        elif start < end:
            found.append((start, end))
    return found


def without(text: str, spans: Sequence[Span]) -> str:
    """The text with the spans cut out, and no double spaces where they were."""
    edges = [0, *(edge for span in merged(spans) for edge in span), len(text)]
    kept = [text[start:end] for start, end in list(pairwise(edges))[::2]]
    joined = kept[0]
    for piece in kept[1:]:
        joined = _joined(joined, piece)
    return joined.strip()


def with_inserted(text: str, place: int, piece: str) -> str:
    """The text with a piece put in at a character, spaced as its language writes."""
    return _joined(_joined(text[:place], piece), text[place:]).strip()


def _joined(before: str, after: str) -> str:
    if not before.strip() or not after.strip() or before.endswith("\n") or after[0] == "\n":
        return before + after
    before, after = before.rstrip(" "), after.lstrip(" ")
    spaced = after[0].isalnum() or after[0] in "\"'“‘(-*#"
    spaced = spaced and not is_chinese(after[0]) and not is_chinese(before[-1])
    return f"{before} {after}" if spaced and before[-1] not in "。！？，" else before + after
