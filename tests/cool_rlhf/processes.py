"""Commands as processes of their own, to be waited for, interrupted or killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.cool_rlhf.conftest import Artefacts
from tests.support import ENGINE_ENVIRONMENT

SHORT = [
    "checkpoint_every=2",
    "batch.prompts=8",
    "warmup.iterations=1",
    "warmup.max_iterations=1",
    "sampling.max_new_tokens=12",
    "hacks.every=0",
]
"""A PPO run of seconds an iteration, early warning off; to be given its iterations."""


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
