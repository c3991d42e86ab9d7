"""Write nested values as YAML, one value a line, with the origin of each as a comment."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping

# Words that need no quotes and that no YAML dialect reads as a number, flag, date or null.
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_RESERVED = frozenset(["true", "false", "null", "yes", "no", "on", "off", "y", "n"])
_WIDTH = 48


def dotted_leaves(tree: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield (dotted key, leaf); mappings and lists of mappings are entered, other lists are not."""
    if (isinstance(tree, Mapping) and tree) or _is_block_list(tree):
        for key, item in _entries(tree):
            yield from dotted_leaves(item, f"{prefix}.{key}" if prefix else key)
    elif prefix:
        yield prefix, tree


def _is_block_list(tree: object) -> bool:
    return isinstance(tree, list) and any(isinstance(item, Mapping) and item for item in tree)


def _entries(tree: object) -> list[tuple[str, object]]:
    if isinstance(tree, Mapping):
        return [(str(key), item) for key, item in tree.items()]
    assert isinstance(tree, list)
    return [(str(index), item) for index, item in enumerate(tree)]


def scalar_text(value: object) -> str:
    """Return one leaf (a scalar, or a list or mapping in flow style) as YAML."""
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ("-.inf" if value < 0 else ".inf")
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _RESERVED
        return value if plain else _quoted(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(scalar_text(item) for item in value) + "]"
    if isinstance(value, Mapping):
        pairs = (f"{scalar_text(str(key))}: {scalar_text(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    return json.dumps(value)


def _quoted(text: str) -> str:
    # YAML refuses some characters that JSON leaves as they are, and knows no surrogate pairs.
    return "".join(
        character if character.isprintable() else f"\\U{ord(character):08x}"
        for character in json.dumps(text, ensure_ascii=False)
    )


def _lines(tree: object, path: str, indent: str) -> Iterator[tuple[str, str | None]]:
    listed = isinstance(tree, list)
    for key, item in _entries(tree):
        here = f"{path}.{key}" if path else key
        head = f"{indent}-" if listed else f"{indent}{scalar_text(key)}:"
        if (isinstance(item, Mapping) and item) or _is_block_list(item):
            yield head, None
            yield from _lines(item, here, indent + "  ")
        else:
            yield f"{head} {scalar_text(item)}", here


def emit(tree: Mapping[str, object], origins: Mapping[str, str]) -> str:
    """Return the YAML text of a nested mapping; a leaf's origin follows it after `  # `."""
    text: list[str] = []
    for line, key in _lines(tree, "", ""):
        origin = origins.get(key) if key else None
        text.append(f"{line:<{_WIDTH}}  # {origin}" if origin else line)
    return "\n".join(text) + "\n" if text else "{}\n"
