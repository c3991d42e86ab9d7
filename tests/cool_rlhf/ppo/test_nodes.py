"""A run over several nodes, one of which dies with the actors on it."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from safetensors.torch import load_file

from cool_rlhf.report.divergence import first_divergence
from tests.cool_rlhf.conftest import Artefacts
from tests.cool_rlhf.processes import SHORT, finish, start
from tests.support import ENGINE_ENVIRONMENT

ITERATIONS = 5
NANO = [
    *SHORT,
    f"iterations={ITERATIONS}",
]
ROOMS = ("3", "3", "3")
"""Five actors of one CPU each: no node holds them all, any two do."""


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "Iterator[subprocess.Popen[str]]":
    """The process of the cluster; its first line is the address."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with (tmp_path / "nodes.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.cool_rlhf.ppo.nodes", *ROOMS],
            env={**os.environ, **ENGINE_ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def line_of(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_a_node_that_dies_takes_its_actors_and_the_run_goes_on_elsewhere(
    nodes: "subprocess.Popen[str]", artefacts: Artefacts, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    address = line_of(nodes.stdout)
    assert address
    base = ["ppo", "configs/ppo/tiny.yaml", *NANO, f"run.root={tmp_path}"]
    base.append(f"crew.ray.address={address}")
    finish([*base, "run.name=whole"], artefacts, log)

    driver = start([*base, "run.name=survivor"], artefacts, log)
    while not (tmp_path / "survivor/rollouts/iteration-000003.jsonl").exists():
        assert driver.poll() is None, log.read_text()[-4000:]
        time.sleep(0.01)
    assert nodes.stdin is not None
    nodes.stdin.write("end one\n")
    nodes.stdin.flush()
    assert int(line_of(nodes.stdout)) > 0
    assert driver.wait(timeout=400) == 0, log.read_text()[-4000:]
    assert "all actors start again, from the newest checkpoint" in log.read_text()

    runs = tmp_path / "whole", tmp_path / "survivor"
    assert first_divergence(*runs) is None
    last = f"checkpoints/{ITERATIONS - 1:06d}/policy/model.safetensors"
    weights = [load_file(run / last) for run in runs]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
