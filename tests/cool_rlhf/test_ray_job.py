"""PPO as a submitted Ray job, against a head with token authentication on."""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cool_rlhf.conftest import Artefacts
from tests.support import ENGINE_ENVIRONMENT, free_port

JOB = [
    "iterations=3",
    "checkpoint_every=3",
    "batch.prompts=4",
    "warmup.iterations=1",
    "warmup.max_iterations=1",
    "sampling.max_new_tokens=12",
    "run.name=job",
]


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A local head that asks for a token; yields the environment of those who know it."""
    ports = {name: free_port() for name in ("gcs", "dashboard", "client", "agent")}
    environment = {
        **os.environ,
        **ENGINE_ENVIRONMENT,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    # Ray's sockets must have short paths.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as scratch:
        command = [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
            *(f"--port={ports['gcs']}", f"--dashboard-port={ports['dashboard']}"),
            *(f"--ray-client-server-port={ports['client']}", "--dashboard-host=127.0.0.1"),
            # Fixed by default, and another Ray of this machine may have it.
            f"--dashboard-agent-listen-port={ports['agent']}",
            *("--num-cpus=16", f"--temp-dir={scratch}", "--object-store-memory=500000000"),
        ]
        log = (tmp_path / "head.log").open("wb")
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield environment | {"DASHBOARD": f"http://127.0.0.1:{ports['dashboard']}"}
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def submit(
    environment: dict[str, str], command: list[str], **runtime: str
) -> "subprocess.CompletedProcess[str]":
    words = [
        *(str(Path(sys.executable).with_name("ray")), "job", "submit"),
        *("--address", environment["DASHBOARD"], "--working-dir", "."),
        *("--runtime-env-json", json.dumps({"env_vars": runtime, "excludes": EXCLUDES})),
        *("--", sys.executable, "-m", "cool_rlhf", *command),
    ]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=280, check=False
        )
        # A young head answers before its job agent is there.
        if "No available agent" not in done.stderr + done.stdout or time.monotonic() > deadline:
            return done


def wait_for(environment: dict[str, str]) -> None:
    """Until the dashboard answers: 401 to strangers."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{environment['DASHBOARD']}/api/version", timeout=5)
        except urllib.error.HTTPError as error:
            if error.code == 401:
                return
            raise
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
        else:
            pytest.fail("the head answers without a token")
    pytest.fail("the head's dashboard never came up")


EXCLUDES = [".venv", "runs", ".git"]


@pytest.mark.timeout(600)
def test_ppo_runs_as_a_ray_job(head: dict[str, str], artefacts: Artefacts, tmp_path: Path) -> None:
    wait_for(head)
    cache = {"COOL_RLHF_CACHE": str(artefacts.cache)}
    refused = submit(head, ["ppo", "configs/ppo/tiny.yaml", *JOB, "run.root=runs"], **cache)
    assert refused.returncode != 0
    assert "run.root" in refused.stdout + refused.stderr

    done = submit(head, ["ppo", "configs/ppo/tiny.yaml", *JOB, f"run.root={tmp_path}"], **cache)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    rows = (tmp_path / "job" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 3
    assert (tmp_path / "job" / "checkpoints" / "000002" / "policy" / "config.json").is_file()

    stranger = {k: v for k, v in head.items() if not k.startswith("RAY_AUTH")}
    stranger |= {"RAY_AUTH_MODE": "disabled"}
    assert submit(stranger, ["doctor"]).returncode != 0
