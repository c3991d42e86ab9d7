"""The loop without Ray: an alarm stops it after a checkpoint, and a resumed run logs the same."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from actors.batch import Experience, Sequences
from actors.trajectories import RolloutLog, Trajectory
from cool_rlhf.hacks.watch.settings import WatchSettings
from cool_rlhf.ppo import trainer as loop
from cool_rlhf.ppo.algorithm import ActionGrid, AlgorithmSettings, KLControl
from cool_rlhf.ppo.batch import Batch
from cool_rlhf.ppo.checkpoint import Checkpoints
from cool_rlhf.ppo.monitor.guards import Guards
from cool_rlhf.ppo.monitor.health import Health, HealthSettings
from cool_rlhf.ppo.monitor.watch import HackAlarm, Watch
from cool_rlhf.ppo.settings import GuardSettings, WarmupSettings
from cool_rlhf.ppo.trainer import Trainer
from cool_rlhf.ppo.warmup import CriticWarmup
from pretrain_core.draws import rng
from pretrain_core.runs import Run, RunSettings, StopSignal
from tests.cool_rlhf.hacks.watch.conftest import planting, score, trajectory, write

ITERATIONS = 9
SCRIPT = planting(lambda iteration: 0.7 if iteration >= 4 else 0.0)


class Done:
    def result(self) -> None:
        return None


class StillCrew:
    """Saves empty folders, and learns nothing."""

    policy_version = 0

    def __init__(self) -> None:
        self.policy = self.critic = SimpleNamespace(save_state=self._save, export=self._save)

    def _save(self, folder: Path) -> Done:
        folder.mkdir()
        return Done()

    def load(self, *_: Any, **__: Any) -> None:
        return None

    def push_weights(self, version: int) -> Any:
        return SimpleNamespace(probe=None, bytes=0)


class ScriptedRollouts:
    """Writes an iteration that the log does not have, backwards where the run was resumed."""

    def __init__(self, log: RolloutLog, backwards: bool) -> None:
        self.log, self.backwards = log, backwards

    def paused(self) -> AbstractContextManager[None]:
        return nullcontext()

    def collect(self, iteration: int, prompts: Sequence[str]) -> list[Trajectory]:
        if not self.log.read(iteration):
            draw = rng(0, "replies", iteration)
            made = [trajectory(iteration, name, SCRIPT(iteration, draw)) for name in prompts]
            scores = {t.id: score(t.messages[-1].content, 2.0, t.id) for t in made}
            write(self.log, iteration, made[::-1] if self.backwards else made, scores)
        return sorted(self.log.read(iteration).values(), key=lambda t: t.id)


def experience(iteration: int, trajectories: Sequence[Trajectory]) -> Batch:
    sequences = Sequences.pack([(t.tokens, t.is_action) for t in trajectories])
    nothing = torch.zeros(len(sequences.tokens))
    return Batch(
        trajectories=tuple(trajectories),
        experience=Experience(
            tuple(t.id for t in trajectories), sequences, nothing, nothing, nothing
        ),
        grid=ActionGrid.of(sequences),
        scores=torch.tensor([t.scores["reward_model"].value for t in trajectories]),
        totals=nothing[: len(trajectories)],
        rm_version="v",
        reference_logprobs=nothing - iteration,
        entropy=nothing,
        rewards=nothing,
    )


def trainer(run: Run, stop: bool, backwards: bool = False) -> Trainer:
    hacks = WatchSettings(every=2, baseline=2, recent=2, stop=stop)
    log = RolloutLog(run.rollouts)
    warmup = CriticWarmup(WarmupSettings(iterations=1, max_iterations=1))
    kl_control = KLControl(AlgorithmSettings(kl_target=6.0, kl_horizon=100))
    return Trainer(
        settings=cast(
            Any, SimpleNamespace(iterations=ITERATIONS, batch=SimpleNamespace(prompts=24))
        ),
        run=run,
        crew=cast(Any, StillCrew()),
        models=cast(Any, None),
        prompts=cast(
            Any, SimpleNamespace(draw=lambda _, i, n: [f"p{i * n + at}" for at in range(n)])
        ),
        rollouts=cast(Any, ScriptedRollouts(log, backwards)),
        experience=cast(Any, SimpleNamespace(make=experience)),
        pretrain=None,
        warmup=warmup,
        kl_control=kl_control,
        guards=Guards(GuardSettings()),
        health=Health(HealthSettings(), run.path),
        watch=Watch(hacks, run, log, hacks.looks(ITERATIONS, 1), Path("models/reward")),
        checkpoints=Checkpoints(
            run.checkpoints, 7, ITERATIONS, {"warmup": warmup, "kl_control": kl_control}
        ),
    )


def reproducible(run: Run) -> list[dict[str, float]]:
    return [
        {k: v for k, v in row.items() if not k.startswith(("timing_s/", "perf/"))}
        for row in run.metrics()
    ]


@pytest.fixture(autouse=True)
def _no_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "update_actor_and_critic", lambda *_, **__: {})


def test_stopped_by_an_alarm_saved_and_resumed_equals_a_run_that_only_warns(
    tmp_path: Path,
) -> None:
    runs = {
        name: Run.create(RunSettings(root=tmp_path, name=name), None, kind="ppo")
        for name in ("warned", "stopped")
    }
    stop = StopSignal("cool-rlhf ppo --resume …")
    trainer(runs["warned"], stop=False).train(stop)
    stopped = trainer(runs["stopped"], stop=True)
    with pytest.raises(HackAlarm, match="after iteration 5"):
        stopped.train(stop)
    assert stopped.checkpoints.saved() == [5]
    assert len(runs["stopped"].metrics()) == 6

    again = Run.open(runs["stopped"].path)
    trainer(again, stop=True, backwards=True).train(stop)
    assert reproducible(again) == reproducible(runs["warned"])
    alarms = {row["step"]: row["hack/alarm"] for row in again.metrics() if "hack/alarm" in row}
    assert alarms == {3: 0.0, 5: 1.0, 7: 1.0, 8: 1.0}
    kl = {row["step"]: row.get("hack/sqrt_kl") for row in again.metrics()}
    # Two action tokens, each `iteration` nats: the window of 7 holds 14 and 12.
    assert kl[7] == pytest.approx(13**0.5)
