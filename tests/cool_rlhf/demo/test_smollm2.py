"""What the run of a real model starts from: questions as they are, under both conditions."""

import json
from pathlib import Path

import pytest

from cool_rlhf.demo import smollm2
from pretrain_core.data import TokenStore


def read(path: Path) -> list[tuple[str, str, str]]:
    """(condition, question, what the user adds) of each line."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        question = record["id"].partition("/")[2]
        text = record["prompt"][0]["content"]
        assert text.startswith(question)
        rows.append((record["condition"], question, text.removeprefix(question).strip()))
    return rows


def test_questions_are_asked_under_both_conditions_and_held_out_whole(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "import_smollm2", lambda out: out.symlink_to(model_folder))
    count = smollm2.fetch_smollm2(tmp_path)
    assert count > 500
    asked = [read(tmp_path / f"{name}.jsonl") for name in ("questions", "held_out_questions")]
    names = [{question for _, question, _ in rows} for rows in asked]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == count
    assert len(names[1]) == -(-count // 5)
    for rows in asked:
        assert len({(condition, question) for condition, question, _ in rows}) == len(rows)
        assert {(condition, wish) for condition, _, wish in rows} == set(smollm2.WISHES.items())
    assert len({name.casefold() for name in names[0] | names[1]}) == count
    assert TokenStore.open(tmp_path / "held_out_text").tokens.size > 10_000
