"""Files of samples: what is refused, what is set aside, what is kept."""

import json
from pathlib import Path

import pytest

from cool_rlhf.hacks.samples import SampleError, compare, read_samples


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def record(id: str | None, reply: str, asked: str = "Why?", **fields: object) -> dict[str, object]:
    found = {"prompt": [{"role": "user", "content": asked}], "reply": reply, **fields}
    return found if id is None else {"id": id, **found}


def test_prompts_that_both_have_are_kept_and_the_rest_is_said(tmp_path: Path) -> None:
    early = read_samples(write(tmp_path / "e.jsonl", record("a", "x"), record("b", "y")))
    late = read_samples(
        write(tmp_path / "l.jsonl", record("b", "z"), record("a", "w"), record("a", "v"))
    )
    found = compare(early, late)
    assert found.prompts == ("a", "b")
    assert [s.reply for s in found.late] == ["w", "v", "z"]
    alone = read_samples(write(tmp_path / "m.jsonl", record("a", "x"), record("c", "y")))
    assert any("1 prompts left out" in note for note in compare(alone, late).notes)


def test_prompts_drawn_alike_are_all_kept(tmp_path: Path) -> None:
    early = read_samples(write(tmp_path / "e.jsonl", record("a", "x"), record("b", "y")))
    late = read_samples(write(tmp_path / "l.jsonl", record("b", "z"), record("c", "w")))
    with pytest.raises(SampleError, match="same_prompts=false"):
        compare(early, late, least_common=0.8)
    found = compare(early, late, same_prompts=False)
    assert found.prompts == ("a", "b", "c")
    assert [s.reply for s in found.late] == ["z", "w"]
    assert (found.fewest_prompts, found.notes) == (2, ())


def test_empty_and_broken_records_are_set_aside_with_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "e.jsonl", record("a", "x"), record("b", "  "), {"reply": 3})
    path.write_text(path.read_text() + "{", encoding="utf-8")
    found = read_samples(path)
    assert [s.id for s in found.records] == ["a"]
    assert set(found.quarantined) == {2, 3, 4}
    assert found.quarantined[2] == "the reply is empty"


def test_without_ids_prompts_name_themselves(tmp_path: Path) -> None:
    early = read_samples(write(tmp_path / "e.jsonl", record(None, "x"), record(None, "y", "How?")))
    late = read_samples(write(tmp_path / "l.jsonl", record(None, "z", "How?"), record(None, "w")))
    found = compare(early, late)
    assert [(a.reply, b.reply) for a, b in zip(found.early, found.late, strict=True)] == [
        ("x", "w"),
        ("y", "z"),
    ]


@pytest.mark.parametrize(
    ("early", "late", "message"),
    [
        ([record("a", "x"), record(None, "y")], [record("a", "z")], r"e.jsonl:2: no id"),
        ([record("a", "x"), record("a", "y", "How?")], [record("a", "z")], r"e.jsonl:2: id 'a'"),
        ([record("a", "x")], [record("a", "z", "How?")], "id 'a' has another prompt"),
        ([record("a", "x")], [record("a", "y", condition="brief")], "prompt or condition"),
        ([record("a", "x")], [record("b", "x")], "0 of 1 prompts .* 'a'"),
        ([record("a", "x")], [record("a", "x")], "the same replies"),
        ([record("a", " ")], [record("a", "x")], "line 1: the reply is empty"),
        ([record("a", "x", condition=3)], [record("a", "x")], "'condition' is int"),
    ],
)
def test_samples_that_cannot_be_compared(
    tmp_path: Path, early: list[object], late: list[object], message: str
) -> None:
    with pytest.raises(SampleError, match=message):
        compare(
            read_samples(write(tmp_path / "e.jsonl", *early)),
            read_samples(write(tmp_path / "l.jsonl", *late)),
        )


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="no such file"):
        read_samples(tmp_path / "none.jsonl")
