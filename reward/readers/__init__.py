"""Readers of preference formats, one file each, by name or by what the first records look like."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from reward.preference import PreferenceError
from reward.readers.alpaca import Alpaca
from reward.readers.base import Reader, ReadOptions
from reward.readers.files import Row, rows_of
from reward.readers.hh import HH
from reward.readers.kto import KTO
from reward.readers.ranked import Ranked
from reward.readers.sharegpt import ShareGPT
from reward.readers.trl import TRL, parse_preference

__all__ = ["READERS", "ReadOptions", "Reader", "Row", "parse_preference", "reader_of", "rows_of"]

# `auto` asks in this order: TRL last, because its columns occur in the other formats too.
READERS: dict[str, Reader] = {
    reader.name: reader for reader in (HH(), Alpaca(), ShareGPT(), Ranked(), KTO(), TRL())
}
LOOKED_AT = 50


def reader_of(format: str, rows: Sequence[Row], path: Path) -> tuple[Reader, str]:
    """(reader, why): the one named, or for `auto` the one that recognises most first records.

    Raises PreferenceError for an unknown name, or records that no reader recognises.
    """
    if format in READERS:
        return READERS[format], "as asked"
    if format != "auto":
        raise PreferenceError(f"unknown format {format!r} (known: auto, {', '.join(READERS)})")
    records = [row.record for row in rows if isinstance(row.record, dict)][:LOOKED_AT]
    if not records:
        return READERS["trl"], "no record to recognise a format by"
    votes: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    for record in records:
        for name, reader in READERS.items():
            if reason := reader.recognise(record):
                votes[name] += 1
                reasons.setdefault(name, reason)
                break
    if not votes:
        columns = ", ".join(list(records[0])[:8])
        raise PreferenceError(
            f"{path}: no known preference format (columns: {columns}); known: "
            f"{', '.join(READERS)}. Name one with --format, or rename the columns"
        )
    best, count = votes.most_common(1)[0]
    return READERS[best], f"{reasons[best]} ({count} of the first {len(records)} records)"
