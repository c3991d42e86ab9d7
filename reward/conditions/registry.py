"""The registry of conditions: YAML in, names and one hash out (report §4.2.1)."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain_core.errors import InputError
from pretrain_core.settings import Settings, load

DEFAULT = "default"
PACKAGED = "configs/conditions/default.yaml"
NAME = re.compile(r"[a-z][a-z0-9_]*")
VERSION = "version"  # beside the names in the JSON form, so no condition may be called so


class ConditionsError(InputError):
    """A registry that cannot be used: a bad name, or a `default` that states a preference."""


class UnknownCondition(InputError):
    """A condition that the registry does not have; the message names those it has."""


@dataclass(frozen=True)
class Condition:
    """One preference; `system_prompt` is what the reward model reads before the conversation."""

    name: str
    system_prompt: str
    description: str = ""


class _Entry(Settings):
    system_prompt: str
    description: str = ""


class _File(Settings):
    version: int | None = None
    conditions: dict[str, _Entry]


class Conditions:
    """An immutable set of conditions, always with an empty `default`.

    `version` is the registry file's own count of its revisions, None where it states none.
    """

    def __init__(self, conditions: Iterable[Condition], version: int | None = None) -> None:
        self.version = version
        self._by_name: dict[str, Condition] = {}
        for condition in conditions:
            if condition.name == VERSION:
                raise ConditionsError(f"no condition can be named {VERSION!r}: choose another name")
            if not NAME.fullmatch(condition.name):
                raise ConditionsError(
                    f"condition {condition.name!r}: a name is lower-case letters, digits and _"
                )
            if condition.name in self._by_name:
                raise ConditionsError(f"condition {condition.name!r} is given twice")
            if condition.name != DEFAULT and not condition.system_prompt.strip():
                raise ConditionsError(
                    f"condition {condition.name!r} has an empty system_prompt; only "
                    f"{DEFAULT!r} is empty"
                )
            self._by_name[condition.name] = condition
        default = self._by_name.setdefault(DEFAULT, Condition(DEFAULT, "", "No preference."))
        if default.system_prompt:
            raise ConditionsError(f"condition {DEFAULT!r} means 'none': its system_prompt is empty")

    @classmethod
    def load(cls, path: Path | None = None) -> "Conditions":
        """Read a registry file (default: the packaged one); raises `SettingsError` with the line.

        A file adds to the packaged registry by `extends: configs/conditions/default.yaml`.
        """
        file = load(_File, path or PACKAGED).value
        found = (
            Condition(name, entry.system_prompt.strip(), entry.description.strip())
            for name, entry in file.conditions.items()
        )
        return cls(found, file.version)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Conditions":
        """Registry of what `as_dict` wrote."""
        found = (
            Condition(name, entry["system_prompt"], entry.get("description", ""))
            for name, entry in raw.items()
            if name != VERSION
        )
        return cls(found, raw.get(VERSION))

    def as_dict(self) -> dict[str, Any]:
        """Name → system prompt and description, and the version if there is one; JSON-able."""
        version = {} if self.version is None else {VERSION: self.version}
        return version | {
            c.name: {"system_prompt": c.system_prompt, "description": c.description} for c in self
        }

    def get(self, name: str) -> Condition:
        """The condition of that name; `UnknownCondition` names the known ones and a near miss."""
        if name in self._by_name:
            return self._by_name[name]
        near = difflib.get_close_matches(str(name), self.names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownCondition(f"unknown condition {name!r} (known: {', '.join(self.names)}){hint}")

    def __iter__(self) -> Iterator[Condition]:
        return iter(self._by_name.values())

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Conditions)
            and self._by_name == other._by_name
            and self.version == other.version
        )

    def __hash__(self) -> int:
        return hash(self.hash)

    @property
    def names(self) -> list[str]:
        """Names in the registry's order."""
        return list(self._by_name)

    @property
    def hash(self) -> str:
        """16 hex digits over names, prompts and the version: other wording, another hash."""
        wording = sorted((c.name, c.system_prompt) for c in self)
        content = wording if self.version is None else [self.version, wording]
        text = json.dumps(content, ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def subset(self, names: Iterable[str]) -> "Conditions":
        """The named conditions (and `default`), in the given order."""
        return Conditions((self.get(name) for name in names), self.version)

    def conflicts(self, other: "Conditions") -> list[str]:
        """Names that both registries have with different prompts."""
        return [
            c.name
            for c in self
            if c.name in other and other.get(c.name).system_prompt != c.system_prompt
        ]
