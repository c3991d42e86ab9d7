"""The texts behind `config check` and `config show` of both command lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pretrain_core.settings.base import DEFAULT, S
from pretrain_core.settings.load import load


def _source_of(origin: str) -> str:
    if origin == DEFAULT:
        return "defaults"
    if origin.startswith("override "):
        return "overrides"
    if origin.startswith("environment "):
        return "the environment"
    return origin.rpartition(":")[0] or origin


def check(schema: type[S], path: str | Path | None, overrides: Sequence[str] = ()) -> str:
    """Return one line saying where the values come from; raises SettingsError if any is wrong."""
    resolved = load(schema, path, overrides)
    counts = Counter(_source_of(origin) for origin in resolved.origins.values())
    parts = ", ".join(f"{count} from {source}" for source, count in counts.most_common())
    return f"{path or schema.__name__}: good; {len(resolved.origins)} values: {parts}"


def show(schema: type[S], path: str | Path | None, overrides: Sequence[str] = ()) -> str:
    """Return the resolved settings as YAML, the origin of each value as a comment."""
    return load(schema, path, overrides).to_yaml()
