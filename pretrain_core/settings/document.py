"""YAML documents whose every value remembers the file and line it came from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pretrain_core.errors import InputError

Scalar = str | int | float | bool | None


class SettingsError(InputError):
    """One readable line per problem: `file:line: key: what is wrong, and the way out`."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


@dataclass(frozen=True)
class Node:
    """A value of a document and where it stands (`file:line`, or `override a.b=1`)."""

    value: Scalar | list[Node] | dict[str, Node]
    origin: str

    def plain(self) -> Any:
        """Return the value as ordinary lists, dictionaries and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def child(self, key: str) -> Node | None:
        """Return the node under a mapping key or a list index, None when there is none."""
        if isinstance(self.value, dict):
            return self.value.get(key)
        if isinstance(self.value, list) and key.isdigit() and int(key) < len(self.value):
            return self.value[int(key)]
        return None

    def deepest(self, path: Sequence[str]) -> Node:
        """Return the node at the path, or its nearest ancestor that exists."""
        node = self
        for key in path:
            found = node.child(key)
            if found is None:
                return node
            node = found
        return node


def merge(below: Node, above: Node) -> Node:
    """Lay one document over another: mappings merge key by key, anything else is replaced."""
    if not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    merged = dict(below.value)
    for key, node in above.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return Node(merged, above.origin)


class _Yaml12Loader(yaml.SafeLoader):
    """Plain scalars as YAML 1.2's core schema reads them.

    YAML 1.1, which PyYAML speaks, turns `off` into False and leaves `1e-6` a string: both are
    everyday values of a training configuration.
    """


_CORE_SCHEMA = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", [*"~nN", ""]),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    "tag:yaml.org,2002:float": (
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
}
_Yaml12Loader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first) in _CORE_SCHEMA.items():
    _Yaml12Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)


def _scalar(node: yaml.ScalarNode, where: str) -> Scalar:
    text: str = node.value
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind == "str":
        return text
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    try:
        if kind == "int":
            digits = text.replace("_", "")
            return int(digits, 16) if digits.startswith("0x") else int(digits)
        if kind == "float":
            return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError as error:
        raise SettingsError(f"{where}: {text!r} is not a number") from error
    raise SettingsError(f"{where}: the tag {node.tag!r} is not allowed in settings; write it plain")


def _convert(node: yaml.Node, label: str, origin: str | None, open_nodes: tuple[int, ...]) -> Node:
    where = origin or f"{label}:{node.start_mark.line + 1}"
    if id(node) in open_nodes:
        raise SettingsError(f"{where}: an alias points back into itself")
    inside = (*open_nodes, id(node))
    if isinstance(node, yaml.ScalarNode):
        return Node(_scalar(node, where), where)
    if isinstance(node, yaml.SequenceNode):
        return Node([_convert(item, label, origin, inside) for item in node.value], where)
    entries: dict[str, Node] = {}
    for key_node, value_node in node.value:
        key_where = origin or f"{label}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise SettingsError(f"{key_where}: a key must be a plain word")
        key = str(key_node.value)
        if key in entries:
            raise SettingsError(f"{key_where}: {key}: given twice, first at {entries[key].origin}")
        # The key's line, not the value's: that is where a person looks.
        entries[key] = Node(_convert(value_node, label, origin, inside).value, key_where)
    return Node(entries, where)


def parse(text: str, label: str, origin: str | None = None) -> Node:
    """Parse one YAML document; `origin` overrides the `label:line` of every value.

    Raises SettingsError for broken YAML, a key given twice, or a tag that builds objects.
    """
    try:
        root = yaml.compose(text, Loader=_Yaml12Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = origin or f"{label}:{mark.line + 1 if mark else 1}"
        raise SettingsError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{origin or label}: not valid YAML: {error}") from error
    if root is None:
        return Node(None, origin or f"{label}:1")
    return _convert(root, label, origin, ())


def read(path: Path, label: str) -> Node:
    """Read a YAML file whose top level is a mapping (an empty file is an empty mapping).

    Raises SettingsError for unreadable text and for any other top level.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{label}: not a UTF-8 text file ({error.reason})") from error
    except OSError as error:
        raise SettingsError(f"{label}: cannot be read: {error.strerror}") from error
    root = parse(text, label)
    if root.value is None:
        return Node({}, root.origin)
    if not isinstance(root.value, dict):
        raise SettingsError(f"{root.origin}: the file must hold `key: value` lines")
    return root


def parse_override(override: str) -> Node:
    """Turn `a.b.c=VALUE` (VALUE is YAML) into a document with that one value.

    Raises SettingsError when there is no `=` or a part of the key is empty.
    """
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise SettingsError(
            f"override {override.partition('=')[0]!r}: write it as a.b.c=VALUE, without spaces"
        )
    where = f"override {'.'.join(parts)}"
    node = parse(value, where, origin=where)
    for part in reversed(parts):
        node = Node({part: node}, where)
    return node


def apply_override(root: Node, override: Node) -> Node:
    """Lay an override over a document; digits in its key index into a list that exists."""
    if isinstance(root.value, list) and isinstance(override.value, dict):
        items = list(root.value)
        for key, node in override.value.items():
            if not key.isdigit() or int(key) >= len(items):
                raise SettingsError(
                    f"{override.origin}: {key!r} is no index of the list of {len(items)} values "
                    f"from {root.origin}; replace the whole list or use 0 to {len(items) - 1}"
                )
            items[int(key)] = apply_override(items[int(key)], node)
        return Node(items, root.origin)
    if not isinstance(root.value, dict) or not isinstance(override.value, dict):
        return override
    merged = dict(root.value)
    for key, node in override.value.items():
        merged[key] = apply_override(merged[key], node) if key in merged else node
    # The mapping itself still stands where the file put it.
    return Node(merged, root.origin)
