"""Files of every kind hold the same records; broken ones are refused or counted, never lost."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from reward.data import PreferenceError, read_preferences

RECORDS: list[dict[str, Any]] = [
    {
        "prompt": [{"role": "user", "content": f"Query {n} 問"}],
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": "no"}],
        "condition": "helpful" if n else None,
    }
    for n in range(3)
]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS)


def write(folder: Path, kind: str) -> Path:
    path = folder / f"pairs{kind}"
    if kind == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path)
    elif kind == "-dataset":
        from datasets import Dataset, DatasetDict

        DatasetDict({"train": Dataset.from_list(RECORDS)}).save_to_disk(str(path))
    elif kind.endswith(".gz"):
        path.write_bytes(gzip.compress(LINES.encode()))
    elif kind == ".json":
        path.write_text(json.dumps(RECORDS))
    else:
        path.write_text("\ufeff" + LINES)
    return path


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".json", ".parquet", "-dataset"])
def test_every_kind_of_file_holds_the_same(tmp_path: Path, kind: str) -> None:
    found = read_preferences(write(tmp_path, kind))
    assert [r.prompt[0].content for r in found.records] == [f"Query {n} 問" for n in range(3)]
    assert [r.condition for r in found.records] == [None, "helpful", "helpful"]
    assert found.quarantined == []


def test_a_folder_of_files_is_read_in_order_and_by_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}-00000.jsonl").write_text(LINES + "broken\n")
    found = read_preferences(tmp_path)
    assert len(found.records) == 6
    assert [(Path(q.file).name, q.line) for q in found.quarantined] == [
        ("test-00000.jsonl", 4),
        ("train-00000.jsonl", 4),
    ]
    assert len(read_preferences(tmp_path, split="test").records) == 3
    with pytest.raises(PreferenceError, match="no data file of split 'dev'"):
        read_preferences(tmp_path, split="dev")


def test_a_saved_dataset_names_its_splits(tmp_path: Path) -> None:
    path = write(tmp_path, "-dataset")
    with pytest.raises(PreferenceError, match=r"no split 'dev' \(it has train\)"):
        read_preferences(path, split="dev")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("pairs.csv", b"a,b", "preferences are .jsonl"),
        ("pairs.jsonl.gz", gzip.compress(LINES.encode())[:-9], "broken gzip"),
        ("pairs.jsonl.gz", b"plain", "broken gzip"),
        ("pairs.json", b"[1, 2", "not JSON"),
        ("pairs.parquet", b"no table", "not a Parquet file"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PreferenceError, match=reason):
        read_preferences(tmp_path / name)
    with pytest.raises(PreferenceError, match="no such file"):
        read_preferences(tmp_path / "none.jsonl")
    with pytest.raises(PreferenceError, match="no splits"):
        read_preferences(tmp_path / name, split="train")


def test_hostile_lines_are_counted_and_do_not_end_the_reading(tmp_path: Path) -> None:
    deep = "[" * 200_000
    half = json.dumps(RECORDS[0] | {"source": "\ud800"})
    (tmp_path / "pairs.jsonl").write_text(f"{deep}\n{half}\n{LINES}")
    found = read_preferences(tmp_path / "pairs.jsonl")
    assert len(found.records) == 3
    assert ["not JSON" in found.quarantined[0].reason, found.quarantined[1].line] == [True, 2]
    assert "not valid Unicode" in found.quarantined[1].reason


def test_json_lines_under_the_name_of_json(tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text(LINES)
    assert len(read_preferences(tmp_path / "pairs.json").records) == 3
