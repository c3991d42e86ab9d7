"""A run whose processes are killed at random, Ray's own and the driver among them.

`make chaos`, 20 kills; fewer with CHAOS_KILLS=4.
"""

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from cool_rlhf.report.divergence import first_divergence
from pretrain_core.draws import rng
from tests.cool_rlhf.conftest import Artefacts
from tests.cool_rlhf.processes import SHORT, reproducible, start

logger = logging.getLogger(__name__)

KILLS = int(os.environ.get("CHAOS_KILLS", "20"))
PATIENCE_S = 300.0
"""For a run to go on after a kill, or to end."""


def nano(iterations: int) -> list[str]:
    return [*SHORT, f"iterations={iterations}", "crew.restarts=20"]


class Mortal:
    """A run that is resumed, by the command that it prints, whenever its driver ends badly."""

    def __init__(self, first: list[str], run: Path, artefacts: Artefacts, log: Path) -> None:
        self.run, self.artefacts, self.log = run, artefacts, log
        self.resumed = 0
        self.driver = start(first, artefacts, log)

    def alive(self) -> bool:
        """Whether it is not done; resumes it where it died."""
        code = self.driver.poll()
        if code == 0:
            return False
        if code is not None:
            self.resumed += 1
            self.driver = start(["ppo", "--resume", str(self.run)], self.artefacts, self.log)
        return True

    def sampled(self, iteration: int) -> bool:
        return (self.run / f"rollouts/iteration-{iteration:06d}.jsonl").exists()

    def processes(self) -> list[psutil.Process]:
        """The driver and all that it started."""
        try:
            driver = psutil.Process(self.driver.pid)
            return [driver, *driver.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def wait(self, until: Callable[[], bool]) -> None:
        """Wait for something that is to happen in time."""
        deadline = time.monotonic() + PATIENCE_S
        while not until():
            assert time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(0.05)

    def finish(self) -> None:
        self.wait(lambda: not self.alive())


def assert_equal(whole: Path, other: Path, iterations: int) -> None:
    assert reproducible(whole) == reproducible(other)
    assert first_divergence(whole, other) is None
    last = f"checkpoints/{iterations - 1:06d}/policy/model.safetensors"
    weights = [load_file(run / last) for run in (whole, other)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def kill(process: psutil.Process) -> str | None:
    """SIGKILL; what it was, None where it had just ended."""
    try:
        name = " ".join(process.cmdline()) or process.name()
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return None
    return name[:80]


@pytest.mark.chaos
@pytest.mark.timeout(3 * 3600)
def test_random_kills_of_any_process_change_nothing(artefacts: Artefacts, tmp_path: Path) -> None:
    base = ["ppo", "configs/ppo/tiny.yaml", *nano(KILLS + 2), f"run.root={tmp_path}"]
    log = tmp_path / "log"
    whole = start([*base, "run.name=whole"], artefacts, log)
    assert whole.wait(timeout=120 + 30 * KILLS) == 0, log.read_text()[-4000:]

    mortal = Mortal([*base, "run.name=killed"], tmp_path / "killed", artefacts, log)
    killed: list[str] = []
    for number in range(KILLS):
        draws = rng(0, "chaos", number)
        deadline = time.monotonic() + PATIENCE_S
        while mortal.alive() and not mortal.sampled(number + 1):
            assert time.monotonic() < deadline, (killed, log.read_text()[-4000:])
            time.sleep(0.05)
        time.sleep(float(draws.uniform(0, 3)))
        while mortal.alive() and len(killed) == number:
            # Between two drivers there is none to choose from.
            if processes := mortal.processes():
                name = kill(processes[int(draws.integers(len(processes)))])
                killed += [name] if name else []
    mortal.finish()
    assert len(killed) == KILLS
    assert_equal(tmp_path / "whole", tmp_path / "killed", KILLS + 2)
    logger.warning("%d kills, %d resumes: %s", len(killed), mortal.resumed, ", ".join(killed))


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("service", ["gcs_server", "raylet"])
def test_ray_dies_while_the_actors_start_again(
    artefacts: Artefacts, tmp_path: Path, service: str
) -> None:
    iterations = 4
    base = ["ppo", "configs/ppo/tiny.yaml", *nano(iterations), f"run.root={tmp_path}"]
    log = tmp_path / "log"
    whole = start([*base, "run.name=whole"], artefacts, log)
    assert whole.wait(timeout=PATIENCE_S) == 0, log.read_text()[-4000:]

    mortal = Mortal([*base, "run.name=killed"], tmp_path / "killed", artefacts, log)
    mortal.wait(lambda: mortal.sampled(1))
    only(mortal, "PolicyWorker").send_signal(signal.SIGKILL)
    mortal.wait(lambda: "all actors start again" in log.read_text())
    only(mortal, service).send_signal(signal.SIGKILL)
    mortal.wait(lambda: mortal.driver.poll() is not None)
    assert mortal.driver.poll() != 0
    mortal.finish()
    assert mortal.resumed
    assert_equal(tmp_path / "whole", tmp_path / "killed", iterations)


def only(mortal: Mortal, name: str) -> psutil.Process:
    """The one process of a run that has such a name."""
    found = [p for p in mortal.processes() if name in " ".join(p.cmdline()).split(" --")[0]]
    assert len(found) == 1, found
    return found[0]
