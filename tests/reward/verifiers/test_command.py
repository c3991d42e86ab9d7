import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pretrain_core.settings import SettingsError
from reward.cli import app


@pytest.fixture
def replies(tmp_path: Path) -> Path:
    user = {"role": "user", "content": "Reply in JSON."}
    records = [
        {"messages": [user, {"role": "assistant", "content": '{"a": 1}'}], "id": 7},
        {"prompt": [user], "reply": "no"},
        {"reply": "[1, 2]", "reference": {"any": "thing"}},
        {"messages": [user]},
        {"prompt": "text", "reply": "x"},
        {"reply": 3},
    ]
    file = tmp_path / "replies.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records) + "{\n")
    return file


def test_verdicts_and_counts(replies: Path, tmp_path: Path) -> None:
    out = tmp_path / "verdicts.jsonl"
    options = ["--verifier", "json", "--verifier", "length", "--out", str(out)]
    done = CliRunner().invoke(
        app, ["verify", str(replies), "verifiers.length.most=1", *options], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["line"], r["verifier"], r["passed"]) for r in rows] == [
        (1, "json", True),
        (1, "length", False),
        (2, "json", False),
        (2, "length", True),
        (3, "json", True),
        (3, "length", False),
    ]
    assert rows[0]["id"] == "7"
    flat = " ".join(done.output.replace("│", " ").split())
    assert "4 records set aside" in flat
    assert ":4: set aside: the conversation has no reply" in flat
    assert ":7: set aside: not JSON" in flat
    assert "json 3 2 1 0 0.667" in flat


def test_verifiers_of_a_settings_file(replies: Path, tmp_path: Path) -> None:
    config = tmp_path / "verify.yaml"
    config.write_text("verifiers:\n  brief: {kind: length, most: 1}\n")
    arguments = ["verify", str(replies), "--config", str(config)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert '"verifier": "brief"' in done.output
    config.write_text("verifiers:\n  brief: {kind: lenght, most: 1}\n")
    with pytest.raises(SettingsError, match=r"verify\.yaml:2.*`kind` is one of code"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    config.write_text("verifiers:\n  brief: {kind: length, mos: 1}\n")
    with pytest.raises(SettingsError, match=r"verify\.yaml:2.*did you mean 'most'"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.mark.parametrize(
    ("options", "reason"), [([], "name a verifier"), (["--verifier", "maht"], "no verifier 'maht'")]
)
def test_bad_calls(replies: Path, options: list[str], reason: str) -> None:
    done = CliRunner().invoke(app, ["verify", str(replies), *options])
    assert done.exit_code == 2
    assert reason in " ".join(done.output.replace("│", " ").split())
