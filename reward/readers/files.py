"""Raw records of preference files: JSONL, JSON, Parquet, gzip, and dataset folders."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from reward.preference import PreferenceError, Quarantined

LINES, WHOLE, TABLE = (".jsonl", ".ndjson"), (".json",), (".parquet",)
KINDS = (*LINES, *WHOLE, *TABLE)
SAVED_BY_DATASETS = ("dataset_dict.json", "state.json")


@dataclass(frozen=True)
class Row:
    """One record with the file and the 1-based line (or record number) it stands at."""

    file: str
    line: int
    record: Any
    text: str | None = None

    def raw(self) -> str:
        """The record as it stood."""
        if self.text is not None:
            return self.text
        text = json.dumps(self.record, ensure_ascii=False, default=str)
        return text.encode(errors="backslashreplace").decode()  # halves of surrogate pairs


def rows_of(path: Path, split: str | None = None) -> Iterator[Row | Quarantined]:
    """Records of a file, or of every data file of a folder in the order of their names.

    `split` names a split of a dataset folder (default: `train`, or the only one). Raises
    PreferenceError for a file that is missing, broken or of an unknown kind.
    """
    if path.is_dir():
        yield from _folder(path, split)
        return
    if split is not None:
        raise PreferenceError(f"{path} is a file and has no splits: leave --split out")
    kind = _kind(path)
    if not path.is_file():
        raise PreferenceError(f"{path}: no such file")
    if kind in TABLE:
        yield from _table(path)
        return
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            yield from (
                _lines(path, stream) if kind in LINES else _whole(path, cast(BinaryIO, stream))
            )
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise PreferenceError(f"{path}: broken gzip file: {error}") from error


def _kind(path: Path) -> str:
    bare = path.with_suffix("") if path.suffix == ".gz" else path
    if bare.suffix not in KINDS or (path.suffix == ".gz" and bare.suffix in TABLE):
        raise PreferenceError(
            f"{path}: preferences are {', '.join(KINDS)} files (JSON also as .gz) or a folder "
            "saved by datasets"
        )
    return bare.suffix


def _lines(path: Path, stream: Iterable[bytes]) -> Iterator[Row | Quarantined]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            yield Row(str(path), number, json.loads(text), text)
        except (ValueError, RecursionError) as error:
            raw = line.decode(errors="backslashreplace").rstrip("\r\n")
            yield Quarantined(number, f"not JSON: {error}", raw, file=str(path))


def _whole(path: Path, stream: BinaryIO) -> Iterator[Row | Quarantined]:
    content = stream.read()
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if content.lstrip().startswith(b"{"):  # JSON lines under the name of JSON
            yield from _lines(path, content.splitlines(keepends=True))
            return
        raise PreferenceError(f"{path}: not JSON: {error}") from error
    for number, record in enumerate(found if isinstance(found, list) else [found], start=1):
        yield Row(str(path), number, record)


def _table(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            number = 0
            for batch in table.iter_batches(batch_size=1024):
                for record in batch.to_pylist():
                    number += 1
                    yield Row(str(path), number, record)
    except pyarrow.ArrowInvalid as error:
        raise PreferenceError(f"{path}: not a Parquet file: {error}") from error


def _folder(path: Path, split: str | None) -> Iterator[Row | Quarantined]:
    if any((path / name).is_file() for name in SAVED_BY_DATASETS):
        yield from _saved(path, split)
        return
    files = sorted(f for f in path.rglob("*") if f.is_file() and _is_data(f))
    chosen = [f for f in files if split is None or f.name.startswith(split)]
    if not chosen:
        names = ", ".join(f.name for f in files[:5]) or "none"
        wanted = f" of split {split!r}" if split else ""
        raise PreferenceError(f"{path}: no data file{wanted} in this folder (found: {names})")
    for file in chosen:
        yield from rows_of(file)


def _is_data(file: Path) -> bool:
    bare = file.with_suffix("") if file.suffix == ".gz" else file
    # A hub snapshot keeps its metadata in JSON beside the data.
    return bare.suffix in KINDS and bare.name not in ("dataset_info.json", "dataset_infos.json")


def _saved(path: Path, split: str | None) -> Iterator[Row]:
    from datasets import DatasetDict, load_from_disk

    found = load_from_disk(str(path))
    if isinstance(found, DatasetDict):
        wanted = split or ("train" if "train" in found or len(found) != 1 else next(iter(found)))
        if wanted not in found:
            raise PreferenceError(f"{path}: no split {wanted!r} (it has {', '.join(found)})")
        found = found[wanted]
    elif split is not None:
        raise PreferenceError(f"{path} holds one split: leave --split out")
    for number, record in enumerate(found, start=1):
        yield Row(str(path), number, record)
