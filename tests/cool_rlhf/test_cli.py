"""The command line: readable errors, exit codes, settings with origins."""

import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from cool_rlhf.cli import app


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cool_rlhf", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_an_unknown_key_ends_in_one_line_and_status_two() -> None:
    done = run("config", "check", "ppo", "configs/ppo/tiny.yaml", "algorithm.kl_coeff=0.1")
    assert done.returncode == 2
    assert "kl_coeff" in done.stderr
    assert "did you mean 'kl_coef'" in done.stderr
    assert "Traceback" not in done.stderr


def test_service_settings_are_checked(tmp_path: Path) -> None:
    config = tmp_path / "service.yaml"
    config.write_text("replicas: 2\nbatch_tokenz: 9\n")
    done = run("config", "check", "service", str(config))
    assert done.returncode == 2
    assert "did you mean 'batch_tokens'" in done.stderr


def test_show_names_origins() -> None:
    done = CliRunner().invoke(
        app, ["config", "show", "ppo", "configs/ppo/tiny.yaml", "algorithm.kl_coef=0.1"]
    )
    assert done.exit_code == 0
    (line,) = [line for line in done.output.splitlines() if "algorithm.kl_coef" in line]
    assert "override" in line
    assert "configs/recipes/ppo-tiny.yaml" in done.output


def test_difference_of_the_presets_is_printed() -> None:
    arguments = ["config", "difference", "ppo", "configs/ppo/paper.yaml", "configs/ppo/tiny.yaml"]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert "actor.lr" in done.output
    assert "algorithm.kl_coef" not in done.output


def test_ppo_wants_a_settings_file_or_a_run() -> None:
    assert CliRunner().invoke(app, ["ppo"]).exit_code == 2
