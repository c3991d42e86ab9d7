"""Two real rounds (Ray, vLLM, DeepSpeed), killed in the second or stopped in the first, resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pretrain_core.runs import read_json
from tests.cool_rlhf.conftest import Artefacts
from tests.support import ENGINE_ENVIRONMENT

ITERATIONS = 6
NANO = [
    "rounds=2",
    f"ppo.iterations={ITERATIONS}",
    "ppo.checkpoint_every=2",
    "ppo.batch.prompts=8",
    "ppo.warmup.iterations=1",
    "ppo.warmup.max_iterations=1",
    "ppo.sampling.max_new_tokens=12",
    "sample.prompts=8",
    "evaluation.text_tokens=2000",
    "labels.mode=programmatic",
    "reward.batch_tokens=2048",
]


def environment(artefacts: Artefacts) -> dict[str, str]:
    return {**os.environ, **ENGINE_ENVIRONMENT, "COOL_RLHF_CACHE": str(artefacts.cache)}


def start(command: list[str], artefacts: Artefacts, log: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "cool_rlhf", *command],
        env=environment(artefacts),
        stdout=log.open("ab"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(command: list[str], artefacts: Artefacts, log: Path) -> None:
    process = start(command, artefacts, log)
    assert process.wait(timeout=280) == 0, log.read_text()[-4000:]


def wait_for(ready: Path, process: "subprocess.Popen[bytes]", log: Path) -> None:
    while not ready.exists():
        assert process.poll() is None, log.read_text()[-4000:]
        time.sleep(0.002)


def kill_when(process: "subprocess.Popen[bytes]", ready: Path, log: Path) -> None:
    """SIGKILL the driver once `ready` exists; its actors notice and end by themselves."""
    wait_for(ready, process, log)
    process.send_signal(signal.SIGKILL)
    process.wait()


def press_ctrl_c_when(process: "subprocess.Popen[bytes]", ready: Path, log: Path) -> str:
    """SIGINT to every process that a terminal would send it to; what was said after it."""
    wait_for(ready, process, log)
    said = len(log.read_text())
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=120) == 130, log.read_text()[-4000:]
    return log.read_text()[said:]


def reproducible(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    volatile = ("timing_s/", "perf/", "time")
    return [{k: v for k, v in row.items() if not k.startswith(volatile)} for row in rows]


def sampled(run: Path) -> list[str]:
    ids = []
    for file in sorted((run / "rollouts").glob("*.jsonl")):
        # A nano model samples U+2028 and the like, which splitlines takes for line ends.
        for line in file.read_text().rstrip("\n").split("\n"):
            record = json.loads(line)["record"]
            if record["kind"] == "trajectory":
                ids.append(record["trajectory"]["id"])
    return ids


def assert_equal(whole_run: Path, other_run: Path) -> None:
    for number in (1, 2):
        whole, other = (run / "rounds" / str(number) for run in (whole_run, other_run))
        assert reproducible(whole) == reproducible(other)
        ids = sampled(other)
        assert len(ids) == len(set(ids)) == ITERATIONS * 8
        assert (
            read_json(whole / "evaluation.json")["samples"]
            == (read_json(other / "evaluation.json")["samples"])
        )


@pytest.mark.timeout(900)
def test_killed_in_round_two_equals_uninterrupted(artefacts: Artefacts, tmp_path: Path) -> None:
    base = ["online", "run", "configs/online/tiny.yaml", *NANO, f"run.root={tmp_path}"]
    log = tmp_path / "log"
    finish([*base, "run.name=whole"], artefacts, log)
    killed = start([*base, "run.name=killed"], artefacts, log)
    # Iteration 3 of round 2: one past the first checkpoint, so its samples must be replayed.
    kill_when(killed, tmp_path / "killed/rounds/2/rollouts/iteration-000003.jsonl", log)
    finish(["online", "resume", str(tmp_path / "killed")], artefacts, log)

    assert_equal(tmp_path / "whole", tmp_path / "killed")
    documented = Path("docs/metrics.md").read_text()
    for name in reproducible(tmp_path / "whole/rounds/1")[-1]:
        assert name == "step" or name.startswith("rm/") or f"`{name}`" in documented, name
    assert (tmp_path / "killed" / "report.html").is_file()
    assert read_json(tmp_path / "killed" / "manifest.json")["engine"] == "vllm"


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_stopped_in_round_one_equals_uninterrupted(artefacts: Artefacts, tmp_path: Path) -> None:
    base = ["online", "run", "configs/online/tiny.yaml", *NANO, f"run.root={tmp_path}"]
    log = tmp_path / "log"
    finish([*base, "run.name=whole"], artefacts, log)
    stopped = start([*base, "run.name=stopped"], artefacts, log)
    ready = tmp_path / "stopped/rounds/1/rollouts/iteration-000002.jsonl"
    said = press_ctrl_c_when(stopped, ready, log)
    assert f"cool-rlhf online resume {tmp_path / 'stopped'}" in said
    assert "Traceback" not in said
    finish(["online", "resume", str(tmp_path / "stopped")], artefacts, log)
    assert_equal(tmp_path / "whole", tmp_path / "stopped")
