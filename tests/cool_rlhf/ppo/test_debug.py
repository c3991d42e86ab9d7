"""Sampling alone, and training on its samples: together they are an ordinary iteration."""

from pathlib import Path

import pytest

from cool_rlhf.report.divergence import first_divergence
from tests.cool_rlhf.conftest import Artefacts
from tests.cool_rlhf.processes import finish

NANO = [
    "iterations=1",
    "checkpoint_every=1",
    "batch.prompts=8",
    "warmup.iterations=0",
    "warmup.max_iterations=0",
    "warmup.explained_variance=null",
    "sampling.max_new_tokens=12",
    "hacks.every=0",
]


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_samples_of_one_run_train_another_as_its_own_would(
    artefacts: Artefacts, tmp_path: Path
) -> None:
    base = ["ppo", "configs/ppo/tiny.yaml", *NANO, f"run.root={tmp_path}"]
    log = tmp_path / "log"
    finish([*base, "run.name=whole"], artefacts, log)
    finish([*base, "run.name=sampled", "--rollouts-only"], artefacts, log)
    sampled = tmp_path / "sampled"
    assert not list((sampled / "checkpoints").glob("*"))
    finish([*base, "run.name=trained", "--rollouts-of", str(sampled)], artefacts, log)
    assert first_divergence(tmp_path / "whole", tmp_path / "trained") is None
    assert (tmp_path / "trained/report.html").is_file()
    finish(["replay", str(tmp_path / "whole"), "0"], artefacts, log)
    assert first_divergence(tmp_path / "whole", tmp_path / "whole-replay-0") is None
