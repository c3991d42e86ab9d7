"""Several processes train as one: whatever starts them, and whichever engine averages gradients."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain_core.runs import Run, RunSettings
from reward.data import Preference
from reward.errors import RewardTrainingError, RewardTrainingStopped
from reward.launch import needs_launch
from reward.model import RewardModel, read_card, read_conditions
from reward.settings import LaunchSettings, RewardTrainSettings
from reward.trainer import train_reward
from tests.support import StopAfter

Opposed = Callable[[int, int], list[Preference]]
RECIPE: dict[str, Any] = {
    "max_length": 64,
    "batch_tokens": 400,
    "learning_rate": 1e-3,
    "final_learning_rate": 1e-3,
    "bf16": False,
    "log_every": 1,
    "condition_dropout": 0.0,
}


@pytest.fixture
def fit(
    reward_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run_it(records: list[Preference], name: str, **changes: Any) -> Path:
        arguments = {key: changes.pop(key) for key in ("run", "stop") if key in changes}
        return train_reward(
            RewardTrainSettings(**RECIPE | changes),
            base=reward_folder,
            train=records,
            out=tmp_path / name,
            conditions=read_conditions(reward_folder),
            seed=3,
            **arguments,
        )

    return run_it


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(RewardModel.load(folder).network.state_dict())


def losses(run: Run) -> list[float]:
    return [row["loss/reward"] for row in run.metrics()]


@pytest.mark.parametrize(
    "launch",
    [
        {"workers": 2},
        {"workers": 2, "engine": "deepspeed", "zero_stage": 2},
    ],
    ids=["ddp", "zero"],
)
def test_workers_train_as_one_process_with_more_batches_per_step(
    launch: dict[str, Any],
    fit: Callable[..., Path],
    opposed: Opposed,
    reward_folder: Path,
    tmp_path: Path,
) -> None:
    """Batches of unequal numbers of pairs, the last step with a rank that has none."""
    records = opposed(12, 3)[:-1]
    ways: dict[str, dict[str, Any]] = {"one": {"accumulate": 2}, "two": {"launch": launch}}
    runs = {
        name: Run.create(RunSettings(root=tmp_path, name=f"run-{name}"), None, kind="reward")
        for name in ways
    }
    found = {n: fit(records, n, run=runs[n], **changes) for n, changes in ways.items()}
    assert len(losses(runs["one"])) > 1
    start, one = weights(reward_folder), weights(found["one"])
    assert max(float((one[n] - w).abs().max()) for n, w in start.items()) > 1e-3
    two = read_card(found["two"])
    assert losses(runs["two"]) == pytest.approx(losses(runs["one"]), abs=1e-4)
    assert two.training["steps"] == read_card(found["one"]).training["steps"]
    assert runs["two"].manifest["reward"]["version"] == two.version
    for key, weight in weights(found["two"]).items():
        assert torch.allclose(weight, one[key], atol=2e-4), key
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_stop_reaches_all_workers_and_their_failures_come_back(
    fit: Callable[..., Path], opposed: Opposed, tmp_path: Path
) -> None:
    records, launch = opposed(12, 3), {"workers": 2}
    with pytest.raises(RewardTrainingStopped, match="the same command continues"):
        fit(records, "rm", launch=launch, stop=StopAfter(0), epochs=50)
    assert list((tmp_path / ".rm.training").glob("checkpoint-*/complete.json"))
    with pytest.raises(RewardTrainingError, match="no pair to train on"):
        fit([], "none", launch=launch)


def test_processes_that_others_have_started_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not needs_launch(LaunchSettings())
    assert needs_launch(LaunchSettings(workers=2))
    assert needs_launch(LaunchSettings(engine="deepspeed"))
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not needs_launch(LaunchSettings())
    assert not needs_launch(LaunchSettings(workers=4))
    with pytest.raises(RewardTrainingError, match=r"launch.workers is 2, but 4 processes"):
        needs_launch(LaunchSettings(workers=2))
