"""Load settings: files that extend files, then dotted overrides, then validation."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

import pydantic

import pretrain_core
from pretrain_core.settings.base import DEFAULT, Resolved, S
from pretrain_core.settings.document import (
    Node,
    SettingsError,
    apply_override,
    merge,
    parse_override,
    read,
)
from pretrain_core.settings.problems import fields_at, readable_problems
from pretrain_core.settings.secrets import find_secret

_EXTENDS = "extends"


def _install_root() -> Path:
    # The presets are installed beside this package, in a checkout and from a wheel alike.
    return Path(pretrain_core.__file__).resolve().parent.parent


def _label(path: Path) -> str:
    for base in (Path.cwd(), _install_root()):
        if path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    return str(path)


def _nearest(wanted: Path, folder: Path) -> str:
    root = _install_root()
    presets = [file.relative_to(root).as_posix() for file in root.glob("configs/**/*.yaml")]
    beside = [_label(file) for file in folder.glob("*.y*ml")] if folder.is_dir() else []
    known = sorted({*presets, *beside})
    if not known:
        return "no YAML file was found there, nor any preset"
    near = difflib.get_close_matches(_label(wanted), known, n=3, cutoff=0.4)
    same_name = [name for name in known if Path(name).stem == wanted.stem]
    best = list(dict.fromkeys([*near, *same_name]))[:3]
    return f"nearest: {', '.join(best)}" if best else f"known: {', '.join(known[:8])}"


def locate(source: str | Path, folder: Path | None = None, where: str = "") -> Path:
    """Return the file of a source: relative to `folder` (default: cwd), else a packaged preset.

    Raises SettingsError naming the nearest files when there is none.
    """
    source = Path(source).expanduser()
    wanted = Path(os.path.normpath((folder or Path.cwd()) / source))
    if wanted.is_file():
        return wanted
    if not source.is_absolute() and source.parts[:1] == ("configs",):
        packaged = Path(os.path.normpath(_install_root() / source))
        if packaged.is_file():
            return packaged
    what = "is a folder, not a YAML file" if wanted.is_dir() else "no such file"
    raise SettingsError(f"{where}{source}: {what}; {_nearest(wanted, wanted.parent)}")


def _read_chain(path: Path, chain: tuple[Path, ...]) -> Node:
    """Read a file on top of the files that it, or a part of it, extends."""
    return _extended(read(path, _label(path)), path, chain)


def _extended(node: Node, path: Path, chain: tuple[Path, ...]) -> Node:
    """Put a mapping on top of the file that it names under `extends`, its parts first."""
    if not isinstance(node.value, dict):
        return node
    entries = {key: _extended(part, path, chain) for key, part in node.value.items()}
    parent = entries.pop(_EXTENDS, None)
    own = Node(entries, node.origin)
    if parent is None:
        return own
    where = f"{parent.origin}: {_EXTENDS}: "
    if not isinstance(parent.value, str):
        raise SettingsError(f"{where}expected the path of one YAML file, got {parent.plain()!r}")
    below = locate(parent.value, path.parent, where)
    if below in (*chain, path):
        circle = " -> ".join(_label(file) for file in (*chain, path, below))
        raise SettingsError(f"{where}the files extend each other in a circle: {circle}")
    return merge(_read_chain(below, (*chain, path)), own)


def _origins(value: S, root: Node) -> dict[str, str]:
    origins: dict[str, str] = {}
    for key, _ in Resolved(value, {}).leaves():
        path = key.split(".")
        node = root
        for index, part in enumerate(path):
            found = node.child(part)
            if found is None:
                # Below a written list or text the whole value came from that line.
                written = not isinstance(node.value, dict)
                origins[key] = node.origin if written else _default(value, path[: index + 1])
                break
            node = found
        else:
            origins[key] = node.origin
    return origins


def _default(value: S, path: Sequence[str]) -> str:
    field = fields_at(type(value), path[:-1]).get(path[-1])
    extra = field.json_schema_extra if field is not None else None
    variable = extra.get("environment") if isinstance(extra, dict) else None
    return f"environment {variable}" if variable and os.environ.get(str(variable)) else DEFAULT


def _refuse_secrets(root: Node) -> None:
    path = find_secret(root.plain())
    if path is not None:
        key = ".".join(path)
        raise SettingsError(
            f"{root.deepest(path).origin}: {key}: looks like a secret; secrets are never "
            "settings: remove it here and set it as an environment variable"
        )


def load(
    schema: type[S], source: str | Path | None = None, overrides: Sequence[str] = ()
) -> Resolved[S]:
    """Load settings from a YAML file (or preset, or defaults alone) and `a.b.c=VALUE` overrides.

    Raises SettingsError with one `file:line: key: what` line per problem.
    """
    root = Node({}, "settings")
    if source is not None:
        root = _read_chain(locate(source), ())
    for override in overrides:
        root = apply_override(root, parse_override(override))
    _refuse_secrets(root)
    try:
        value = schema.model_validate(root.plain())
    except pydantic.ValidationError as error:
        raise SettingsError(*readable_problems(schema, root, error)) from error
    return Resolved(value, _origins(value, root))
