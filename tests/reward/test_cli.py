import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pretrain_core.settings import SettingsError
from reward.cli import app, read_conversations
from reward.data import Preference, write_preferences
from reward.model import RewardModel, read_card

Opposed = Callable[[int, int], list[Preference]]


@pytest.fixture
def settings_file(tmp_path: Path, model_folder: Path, opposed: Opposed) -> Path:
    conditions = tmp_path / "conditions.yaml"
    conditions.write_text(
        "conditions:\n  bright: {system_prompt: Prefer bright replies.}\n"
        "  dark: {system_prompt: Prefer dark replies.}\n"
    )
    train = write_preferences(tmp_path / "train.jsonl", opposed(30, 1))
    with train.open("a") as out:
        out.write('{"prompt": [], "chosen": []}\n')
    held_out = write_preferences(tmp_path / "held_out.jsonl", opposed(5, 2))
    file = tmp_path / "reward.yaml"
    file.write_text(
        f"extends: configs/recipes/reward-tiny.yaml\nbase: {model_folder}\n"
        f"preferences: {train}\nheld_out: {held_out}\nconditions: {conditions}\n"
        f"max_length: 64\nbatch_tokens: 1024\nrun: {{root: {tmp_path / 'runs'}, name: one}}\n"
    )
    return file


def test_train_eval_score(settings_file: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["train", str(settings_file), "log_every=2"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    flat = " ".join(done.output.split())
    assert "60 preferences, 1 quarantined (line 61: " in flat
    model = tmp_path / "runs" / "one" / "model"
    assert read_card(model).training["pairs"] == 60
    report = json.loads((tmp_path / "runs" / "one" / "accuracy.json").read_text())
    assert set(report["accuracy"]) >= {"all", "condition bright", "condition dark", "conflicting"}
    manifest = json.loads((tmp_path / "runs" / "one" / "manifest.json").read_text())
    assert manifest["quarantined"][0]["line"] == 61

    held_out, out = tmp_path / "held_out.jsonl", tmp_path / "report.json"
    arguments = ["eval", str(model), str(held_out), "--out", str(out)]
    done = runner.invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads(out.read_text()) == report

    talks, scores = tmp_path / "talks.jsonl", tmp_path / "scores.jsonl"
    talk = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "sun tree"}]
    talks.write_text(json.dumps({"messages": talk, "condition": "bright", "id": "x"}) + "\n")
    done = runner.invoke(
        app, ["score", str(model), str(talks), "--out", str(scores)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    row = json.loads(scores.read_text())
    loaded = RewardModel.load(model)
    assert row["score"] == pytest.approx(loaded.score_conversations([talk], ["bright"]).item())
    assert (row["id"], row["rm_version"]) == ("x", loaded.version)


def test_bad_conversations_are_named_by_line(reward_folder: Path, tmp_path: Path) -> None:
    talks = tmp_path / "talks.jsonl"
    good = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    for bad, reason in (
        ('{"messages": [{"role": "user", "content": "a"}]}', "no reply"),
        (good[:-1] + ', "condition": "drak"}', "mean 'dark'"),
        ('{"message": []}', "expected"),
        ("{", "not JSON"),
    ):
        talks.write_text(f"{good}\n{bad}\n")
        done = CliRunner().invoke(app, ["score", str(reward_folder), str(talks)])
        # The box is as wide as the terminal: where its lines break depends on the path.
        text = "".join(done.output.replace("│", " ").split())
        assert done.exit_code == 2
        assert f"{talks.name}:2:" in text
        assert reason.replace(" ", "") in text


def test_a_misspelt_setting_is_refused(settings_file: Path) -> None:
    with pytest.raises(SettingsError, match="learning_rate"):
        CliRunner().invoke(
            app, ["train", str(settings_file), "learning_rat=1"], catch_exceptions=False
        )


def test_a_line_separator_inside_a_text_ends_no_record(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "one\u2028two"}]
    file = tmp_path / "conversations.jsonl"
    file.write_text(json.dumps({"messages": messages}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_conversations(file) == [(1, {"messages": messages})]
