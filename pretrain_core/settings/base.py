"""The base class of all settings, and what a loaded set of them remembers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pydantic
from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from pretrain_core.settings.emit import dotted_leaves, emit
from pretrain_core.settings.secrets import is_secret_name

DEFAULT = "default"
ABSENT = "(absent)"


class Settings(pydantic.BaseModel):
    """Base of every settings class: unknown keys refused, values frozen, secrets impossible."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        for name in cls.model_fields:
            if is_secret_name(name):
                raise TypeError(
                    f"{cls.__name__}.{name}: secrets are never settings; "
                    "read them from the environment where they are used"
                )

    @field_validator("*", mode="before")
    @classmethod
    def _a_flag_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        # Python counts True as 1: `steps: true` would train one step.
        field = cls.model_fields[info.field_name] if info.field_name else None
        if isinstance(value, bool) and field is not None and field.annotation in (int, float):
            raise ValueError("expected a number, got a flag")
        return value


def from_environment(variable: str, default: Any, **field: Any) -> Any:
    """Declare a field whose default is an environment variable, if set, else `default`."""
    kind = type(default)
    return Field(
        default_factory=lambda: kind(os.environ.get(variable) or default),
        json_schema_extra={"environment": variable},
        **field,
    )


def kind_of(value: object) -> object:
    """The tag `kind` of raw or validated settings, for unions that are told apart by it.

    By function and not by field name: the base class validates every field before its type is
    known. None where there is none.
    """
    return value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Resolved(Generic[S]):
    """Settings with the origin of each value: `file:line`, `override a.b`, `default`, …"""

    value: S
    origins: dict[str, str]

    @classmethod
    def of(cls, value: S, origin: str = "code") -> Resolved[S]:
        """Wrap settings that were built in Python: fields given there are of this origin."""
        given = dict(dotted_leaves(value.model_dump(mode="json", exclude_unset=True)))
        origins = {
            key: origin if key in given else DEFAULT
            for key, _ in dotted_leaves(value.model_dump(mode="json"))
        }
        return cls(value, origins)

    def leaves(self) -> Iterator[tuple[str, object]]:
        """Yield every dotted key with its value, in the order of the schema."""
        return dotted_leaves(self.value.model_dump(mode="json"))

    def to_yaml(self) -> str:
        """Return YAML that loads to the same settings, each value with its origin as comment."""
        return emit(self.value.model_dump(mode="json"), self.origins)


def difference(a: Resolved[Any], b: Resolved[Any]) -> list[tuple[str, object, object]]:
    """Return (dotted key, value in a, value in b) wherever two sets of settings differ."""
    left: Mapping[str, object] = dict(a.leaves())
    right: Mapping[str, object] = dict(b.leaves())
    keys = [*left, *(key for key in right if key not in left)]
    rows = [(key, left.get(key, ABSENT), right.get(key, ABSENT)) for key in keys]
    return [row for row in rows if row[1] != row[2]]
