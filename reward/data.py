"""Preference files: read in any known format with a quarantine, written in TRL's."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from reward.conditions import Conditions, UnknownCondition
from reward.inputs import InputTooLong, RewardInputError, reward_input
from reward.preference import Preference, PreferenceError, PreferenceSet, Quarantined
from reward.readers import ReadOptions, Row, parse_preference, reader_of, rows_of

__all__ = [
    "InputTooLong",
    "Preference",
    "PreferenceError",
    "PreferenceSet",
    "Quarantined",
    "RewardInputError",
    "parse_preference",
    "read_preferences",
    "reward_input",
    "write_preferences",
]


def read_preferences(
    path: Path,
    conditions: Conditions | None = None,
    format: str = "auto",
    *,
    condition: str | None = None,
    source: str | None = None,
    pairs: Literal["all", "adjacent"] = "all",
    split: str | None = None,
) -> PreferenceSet:
    """Read a file or dataset folder; what cannot be used is quarantined with line and reason.

    `format` names one of `reward.readers.READERS`; `auto` looks at the first records.
    `condition` and `source` serve records without their own. `pairs`: which pairs a ranking or an
    unpaired prompt gives. `split` chooses from a dataset folder. With `conditions`, a record under
    an unknown condition is quarantined too. Raises PreferenceError for a file that cannot be read,
    UnknownCondition for an unknown default.
    """
    if conditions is not None and condition is not None:
        conditions.get(condition)
    rows: list[Row] = []
    quarantined: list[Quarantined] = []
    for row in rows_of(path, split):
        (rows if isinstance(row, Row) else quarantined).append(row)  # type: ignore[arg-type]
    reader, why = reader_of(format, rows, path)
    records: list[Preference] = []
    origins: list[str] = []
    kept: dict[int, Row] = {}
    for row, found in reader.read(rows, ReadOptions(condition, source, pairs)):
        if not isinstance(found, PreferenceError):
            found = _known(found, conditions)
        if isinstance(found, PreferenceError):
            quarantined.append(Quarantined(row.line, str(found), row.raw(), found.kind, row.file))
        else:
            records.append(found)
            origins.append(f"{row.file}:{row.line}")
            kept[id(row)] = row
    ignored = Counter(
        key for row in kept.values() for key in row.record if key not in reader.fields
    )
    quarantined.sort(key=lambda q: (q.file, q.line))
    return PreferenceSet(records, quarantined, ignored, origins, reader.name, why)


def _known(record: Preference, conditions: Conditions | None) -> Preference | PreferenceError:
    if conditions is not None and record.condition is not None:
        try:
            conditions.get(record.condition)
        except UnknownCondition as error:
            return PreferenceError(str(error), "unknown condition")
    return record


def write_preferences(path: Path, records: Iterable[Preference]) -> Path:
    """Write JSONL that `read_preferences` and TRL read; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as out:
        for record in records:
            out.write(json.dumps(record.as_dict(), ensure_ascii=False) + "\n")
    partial.replace(path)
    return path
