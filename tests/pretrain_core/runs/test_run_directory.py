"""The run directory: what it holds, what it refuses, and what survives a kill."""

import json
import logging
import math
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain_core.runs import (
    Run,
    RunError,
    RunSettings,
    hash_file,
    hash_folder,
    latest_run,
    read_json,
    warn_once,
    write_json,
)
from pretrain_core.runs.logs import warnings_in
from pretrain_core.settings import Resolved, Settings, load


class Recipe(Settings):
    rate: float = 0.1
    address: str = ""


def make(root: Path, name: str | None = "a", kind: str = "ppo") -> Run:
    return Run.create(RunSettings(root=root, name=name), load(Recipe), kind=kind)


def test_a_new_run_says_where_it_comes_from(tmp_path: Path) -> None:
    parent = tmp_path / "sft"
    parent.mkdir()
    (parent / "config.json").write_text("{}")
    settings = RunSettings(root=tmp_path / "runs", name="a", seed=7)
    with Run.create(
        settings, load(Recipe, None, ["rate=0.5"]), kind="ppo", parents={"sft": parent}
    ) as run:
        run.record(engine="vllm")
        run.record(quarantined=2)
    manifest = read_json(run.path / "manifest.json")
    assert manifest["parents"]["sft"]["sha256"] == hash_folder(parent)
    assert manifest["engine"] == "vllm"
    assert manifest["quarantined"] == 2
    assert manifest["versions"]["torch"]
    assert manifest["hardware"]["cores"] >= 1
    assert manifest["command"][0] == sys.orig_argv[0]
    assert "# override rate" in (run.path / "config.yaml").read_text()
    again = Run.open(run.path)
    assert (again.seed, again.manifest) == (7, manifest)
    assert again.checkpoints.is_dir()
    assert again.rollouts == run.path / "rollouts"


def test_a_run_directory_in_use_is_refused(tmp_path: Path) -> None:
    make(tmp_path).close()
    with pytest.raises(RunError, match=r"choose another run\.name or resume"):
        make(tmp_path)
    (tmp_path / "empty").mkdir()
    make(tmp_path, "empty").close()


def test_unnamed_runs_never_collide(tmp_path: Path) -> None:
    runs = [make(tmp_path, None) for _ in range(3)]
    assert len({run.path for run in runs}) == 3
    for run in runs:
        run.close()


def test_a_relative_root_inside_a_ray_job_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(RunError, match="absolute"):
        make(Path("runs"))


def test_a_missing_parent_leaves_nothing_behind(tmp_path: Path) -> None:
    settings = RunSettings(root=tmp_path, name="a")
    with pytest.raises(RunError, match="no such folder"):
        Run.create(settings, None, kind="ppo", parents={"sft": tmp_path / "nowhere"})
    assert list(tmp_path.iterdir()) == []


def test_no_secret_is_written(tmp_path: Path) -> None:
    leaky = Resolved.of(Recipe(address="postgresql://ada:pw@host/db"))
    with pytest.raises(RunError, match="address: looks like a secret"):
        Run.create(RunSettings(root=tmp_path, name="a"), leaky, kind="ppo")
    assert list(tmp_path.iterdir()) == []
    with make(tmp_path, "b") as run, pytest.raises(RunError, match="api_key"):
        run.record(engine={"api_key": "abc"})


def test_metrics_are_read_back_as_they_were_logged(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        run.log(0, {"loss/policy_avg": 0.1, "objective/kl": math.nan})
        run.log(1, {"loss/policy_avg": math.inf})
        rows = run.metrics()
        assert rows[0]["loss/policy_avg"] == 0.1
        assert math.isnan(rows[0]["objective/kl"])
        assert rows[1] == {"step": 1, "loss/policy_avg": math.inf}
        for line in (run.path / "metrics.jsonl").read_text().splitlines():
            json.loads(line, parse_constant=pytest.fail)
        with pytest.raises(RunError, match="'loss': expected a number"):
            run.log(2, {"loss": "high"})  # type: ignore[dict-item]
        with pytest.raises(RunError, match="count from 0"):
            run.log(-1, {})


def test_a_resumed_run_drops_the_steps_it_will_do_again(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        for step in range(5):
            run.log(step, {"x": step})
    # What a kill in the middle of a write leaves.
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 5, "x"')
    with Run.open(run.path) as again:
        assert [row["step"] for row in again.metrics()] == [0, 1, 2, 3, 4]
        again.truncate_metrics(2)
        again.log(3, {"x": 33})
        assert [row["x"] for row in again.metrics()] == [0, 1, 2, 33]
        again.truncate_metrics(-1)
        assert again.metrics() == []


def test_a_torn_line_is_cut_before_the_next_is_written(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        run.log(0, {"x": 0})
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 1')
    with Run.open(run.path) as again:
        again.log(1, {"x": 1})
        assert [row["x"] for row in again.metrics()] == [0, 1]


def test_a_broken_inner_line_is_named(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        run.log(0, {"x": 0})
    path = run.path / "metrics.jsonl"
    path.write_text("{oops\n" + path.read_text())
    with pytest.raises(RunError, match=r"metrics\.jsonl:1: not a JSON line"):
        run.metrics()


def test_phases_nest_and_keep_over_resumes(tmp_path: Path) -> None:
    with make(tmp_path) as run, run.phase("ppo"), run.phase("checkpoint"):
        pass
    with Run.open(run.path) as again, pytest.raises(ValueError, match="no"), again.phase("ppo"):
        raise ValueError("no")
    rows = [json.loads(line) for line in (run.path / "phases.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == ["checkpoint", "ppo", "ppo"]
    assert rows[0]["inside"] == "ppo"
    assert rows[2]["ended_by"] == "ValueError"
    assert rows[1]["seconds"] >= rows[0]["seconds"] >= 0


def test_the_log_keeps_our_infos_and_all_warnings(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        logging.getLogger("actors.policy").info("loaded")
        logging.getLogger("somebody.else").warning("beware\nof this")
    logging.getLogger("actors.policy").warning("after the end")
    text = (run.path / "log.txt").read_text()
    assert "INFO actors.policy: loaded" in text
    assert "after the end" not in text
    assert list(warnings_in(run.path / "log.txt")) == [("somebody.else", "beware\nof this")]


def test_a_warning_is_boxed_once_and_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with make(tmp_path) as run:
        assert warn_once("test_a_warning_is_boxed_once", "vLLM cannot start: [fall-back] is used")
        assert not warn_once("test_a_warning_is_boxed_once", "again")
    shown = capfd.readouterr().err
    assert shown.count("[fall-back]") == 1
    assert "╭" in shown
    (kept,) = warnings_in(run.path / "log.txt")
    assert kept[1] == "vLLM cannot start: [fall-back] is used"


def test_the_newest_run_is_found_by_kind(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="found no run at all"):
        latest_run(tmp_path)
    for name, kind in (("z", "online"), ("b", "ppo"), ("a", "online")):
        make(tmp_path, name, kind).close()
    (tmp_path / "other").mkdir()
    assert latest_run(tmp_path).path.name == "a"
    assert latest_run(tmp_path, "ppo").path.name == "b"
    with pytest.raises(RunError, match="no sft run to resume; found online, ppo"):
        latest_run(tmp_path, "sft")
    with pytest.raises(RunError, match="no run directory"):
        Run.open(tmp_path / "other")


def test_hashes_follow_names_and_content(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a").write_text("x")
    first = hash_folder(folder)
    assert first == hash_folder(folder)
    # sha256("x"), a published vector.
    assert hash_file(folder / "sub" / "a") == (
        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    )
    (folder / "sub" / "a").rename(folder / "sub" / "b")
    second = hash_folder(folder)
    (folder / "sub" / "b").write_text("y")
    assert len({first, second, hash_folder(folder)}) == 3
    (tmp_path / "nothing").mkdir()
    with pytest.raises(RunError, match="empty folder"):
        hash_folder(tmp_path / "nothing")


def test_json_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_json(path, {"path": tmp_path, "text": "é"})
    with pytest.raises(TypeError, match="set"):
        write_json(path, {"bad": {1, 2}})
    assert read_json(path) == {"path": str(tmp_path), "text": "é"}
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]
    path.write_text('{\n "a": }')
    with pytest.raises(RunError, match=r"state\.json:2: not valid JSON"):
        read_json(path)


def test_tensorboard_takes_the_same_numbers(tmp_path: Path) -> None:
    settings = RunSettings(root=tmp_path, name="a", tensorboard=True)
    with Run.create(settings, None, kind="ppo") as run:
        run.log(0, {"objective/kl": 0.25})
    assert list((run.path / "tensorboard").glob("events.*"))


def test_a_tracker_that_is_not_installed_is_refused_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"run\.wandb is on, but the package 'wandb'"):
        Run.create(RunSettings(root=tmp_path, name="a", wandb="auto"), None, kind="ppo")
    assert list(tmp_path.iterdir()) == []


def test_importing_runs_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'vllm', 'deepspeed', 'trl', 'wandb', 'matplotlib', 'transformers'}"
    code = (
        f"import sys, pretrain_core.runs, pretrain_core.settings; print({heavy} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
