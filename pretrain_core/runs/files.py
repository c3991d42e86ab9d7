"""Files that survive a kill: atomic JSON, and JSON lines of which only the last may be torn."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pretrain_core.errors import InputError


class RunError(InputError):
    """A run directory or one of its files cannot be used as asked."""


def write_text(path: Path, text: str) -> None:
    """Write a file so that after a crash either the old or the new text stands, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (a rename is lost without this)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | Path, content: object) -> None:
    """Write JSON atomically and durably; raises TypeError for values that JSON does not know."""
    text = json.dumps(content, indent=2, ensure_ascii=False, default=_plain) + "\n"
    write_text(Path(path), text)


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def read_json(path: str | Path) -> Any:
    """Read JSON; raises RunError naming file and line when it is broken or missing."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path}: no such file") from error
    except json.JSONDecodeError as error:
        raise RunError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: not a UTF-8 text file ({error.reason})") from error


def append_line(path: Path, row: Mapping[str, object]) -> None:
    """Append one JSON line in a single write."""
    with path.open("ab") as stream:
        stream.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; a torn last line (no newline) is left out, a missing file is empty.

    Raises RunError naming file and line for a broken line that was once complete.
    """
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    complete, _, _ = path.read_bytes().rpartition(b"\n")
    for number, line in enumerate(complete.split(b"\n") if complete else [], start=1):
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise RunError(f"{path}:{number}: not a JSON line: {error}") from error
        if not isinstance(row, dict):
            raise RunError(f"{path}:{number}: expected an object, got {line[:40]!r}")
        rows.append(row)
    return rows


def rewrite_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Replace a file of JSON lines atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def cut_torn_line(path: Path) -> bool:
    """Cut off a last line without newline, left by a kill; returns whether there was one."""
    if not path.exists():
        return False
    content = path.read_bytes()
    if not content or content.endswith(b"\n"):
        return False
    os.truncate(path, content.rfind(b"\n") + 1)
    return True
