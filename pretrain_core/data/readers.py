"""Readers of raw text; a record that cannot be used is quarantined and counted, never fatal."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain_core.errors import InputError


class SourceError(InputError):
    """A source as a whole that cannot be read; names the file and the way out."""


@dataclass(frozen=True)
class Rejected:
    """One record that was left out: file, line (from 1) and why."""

    file: Path
    line: int
    reason: str


@dataclass
class Quarantine:
    """Records left out while reading, in order."""

    records: list[Rejected] = field(default_factory=list)

    def add(self, file: Path, line: int, reason: str) -> None:
        """Leave one record out."""
        self.records.append(Rejected(file, line, reason))

    def __len__(self) -> int:
        return len(self.records)

    def summary(self) -> str:
        """One line: how many, and the first of them."""
        if not self.records:
            return "no record quarantined"
        first = self.records[0]
        return (
            f"{len(self.records)} records quarantined, "
            f"first {first.file}:{first.line}: {first.reason}"
        )


def read_jsonl(path: Path, quarantine: Quarantine) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line that holds a JSON object; blank lines are skipped."""
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                record = json.loads(raw)
            except ValueError as error:
                quarantine.add(path, number, f"not JSON: {error}")
                continue
            if isinstance(record, dict):
                yield number, record
            else:
                quarantine.add(path, number, "not a JSON object")


def read_texts(
    paths: Sequence[Path], quarantine: Quarantine, text_key: str = "text"
) -> Iterator[str]:
    """Documents of `.jsonl` files (one per line, under `text_key`) and text files (one each).

    Raises `SourceError` for a file that is missing or of another kind.
    """
    for path in paths:
        if not path.is_file():
            raise SourceError(f"{path}: no such file")
        if path.suffix == ".jsonl":
            for number, record in read_jsonl(path, quarantine):
                text = record.get(text_key)
                if isinstance(text, str) and text.strip():
                    yield text
                else:
                    quarantine.add(path, number, f"no text under {text_key!r}")
        elif path.suffix in (".txt", ".md", ".rst"):
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                quarantine.add(path, 1, f"not UTF-8: {error.reason} at byte {error.start}")
                continue
            if text.strip():
                yield text
            else:
                quarantine.add(path, 1, "empty file")
        else:
            raise SourceError(f"{path}: sources are .jsonl, .txt, .md or .rst files")
