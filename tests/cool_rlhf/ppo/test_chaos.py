"""A run whose processes are killed at random, Ray's own and the driver among them.

`make chaos`, 20 kills; fewer with CHAOS_KILLS=4.
"""

import logging
import os
import signal
import time
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
NANO = [
    *SHORT,
    f"iterations={KILLS + 2}",
    "crew.restarts=20",
]


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
    base = ["ppo", "configs/ppo/tiny.yaml", *NANO, f"run.root={tmp_path}"]
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
    deadline = time.monotonic() + PATIENCE_S
    while mortal.alive():
        assert time.monotonic() < deadline, (killed, log.read_text()[-4000:])
        time.sleep(0.2)
    assert len(killed) == KILLS
    runs = tmp_path / "whole", tmp_path / "killed"
    assert reproducible(runs[0]) == reproducible(runs[1])
    assert first_divergence(*runs) is None
    last = f"checkpoints/{KILLS + 1:06d}/policy/model.safetensors"
    weights = [load_file(run / last) for run in runs]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    logger.warning("%d kills, %d resumes: %s", len(killed), mortal.resumed, ", ".join(killed))
