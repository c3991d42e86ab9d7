"""Two real rounds (Ray, vLLM, DeepSpeed), killed in the second or stopped in the first, resumed."""

import json
from pathlib import Path

import pytest

from actors.crew import Crew
from actors.placement import RaySession
from cool_rlhf.online.command import create_run
from cool_rlhf.online.context import Context
from cool_rlhf.online.rounds import run_rounds
from cool_rlhf.online.settings import OnlineSettings
from pretrain_core.runs import StopSignal, read_json
from pretrain_core.settings import load
from tests.cool_rlhf.conftest import Artefacts
from tests.cool_rlhf.processes import (
    finish,
    kill_when,
    press_ctrl_c_when,
    reproducible,
    start,
)

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


@pytest.fixture
def whole(
    artefacts: Artefacts,
    ray_session: RaySession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The folder of a run that nothing disturbs, in this process."""
    monkeypatch.setenv("COOL_RLHF_CACHE", str(artefacts.cache))
    changes = [*NANO, f"run.root={tmp_path}", "run.name=whole"]
    resolved = load(OnlineSettings, "configs/online/tiny.yaml", changes)
    crew = Crew(resolved.value.ppo.crew, ray_session.borrowed(), engines=True)
    run = create_run(resolved)
    context = Context(resolved.value, run, crew)
    try:
        with StopSignal("cool-rlhf online resume …") as stop:
            run_rounds(context, stop)
    finally:
        context.close()
    return run.path


@pytest.mark.timeout(900)
def test_killed_in_round_two_equals_uninterrupted(
    whole: Path, artefacts: Artefacts, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    command = ["online", "run", "configs/online/tiny.yaml", *NANO, f"run.root={tmp_path}"]
    killed = start([*command, "run.name=killed"], artefacts, log)
    # Iteration 3 of round 2: one past the first checkpoint, so its samples must be replayed.
    kill_when(killed, tmp_path / "killed/rounds/2/rollouts/iteration-000003.jsonl", log)
    finish(["online", "resume", str(tmp_path / "killed")], artefacts, log)

    assert_equal(whole, tmp_path / "killed")
    documented = Path("docs/metrics.md").read_text()
    for name in reproducible(whole / "rounds/1")[-1]:
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
