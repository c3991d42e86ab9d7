"""Conditional PPO (report §4.2.3): the loop, read from top to bottom."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.batch import Sequences
from actors.crew import Crew, Models
from cool_rlhf.ppo.algorithm import KLControl
from cool_rlhf.ppo.batch import Batch
from cool_rlhf.ppo.checkpoint import Checkpoints
from cool_rlhf.ppo.evaluation.jobs import Evaluations
from cool_rlhf.ppo.experience import ExperienceMaker
from cool_rlhf.ppo.monitor.guards import Guards
from cool_rlhf.ppo.monitor.health import Health
from cool_rlhf.ppo.monitor.measure import Clock, iteration_metrics, push_metrics, shown
from cool_rlhf.ppo.monitor.watch import Watch
from cool_rlhf.ppo.pipeline import Pipeline
from cool_rlhf.ppo.pretrain_mix import PretrainMix
from cool_rlhf.ppo.sampling.prompts import Prompt, PromptSet
from cool_rlhf.ppo.sampling.rollouts import Rollouts
from cool_rlhf.ppo.settings import PPOSettings
from cool_rlhf.ppo.updates import UpdateMetrics, update_actor_and_critic
from cool_rlhf.ppo.warmup import CriticWarmup
from pretrain_core.runs import Progress, Run, StopSignal


@dataclass
class Trainer:
    """Everything one PPO run needs, put together by `cool_rlhf.ppo.build`."""

    settings: PPOSettings
    run: Run
    crew: Crew
    models: Models
    prompts: PromptSet
    rollouts: Rollouts
    experience: ExperienceMaker
    pretrain: PretrainMix | None
    warmup: CriticWarmup
    kl_control: KLControl
    guards: Guards
    health: Health
    watch: Watch
    checkpoints: Checkpoints
    pipeline: Pipeline | None = None
    """What samples, scores and learns in layout pipelined."""
    evaluations: Evaluations | None = None

    def train(self, stop: StopSignal) -> Path:
        """Run all iterations that are left; returns the folder of the last policy (HF layout)."""
        first = self.checkpoints.restore(self.crew, self.models)
        self.run.truncate_metrics(first - 1)
        self.health.rows = list(self.run.metrics())
        progress = Progress(self.settings.iterations, "ppo", first=first)
        for iteration in range(first, self.settings.iterations):
            clock = Clock()
            prompts = self.prompts.draw(self.run.seed, iteration, self.settings.batch.prompts)
            # How long the critic-only phase is, is decided on a whole iteration's values.
            if self.pipeline is not None and self.warmup.open:
                text = self._text(iteration)
                batch, updates = self.pipeline.learn(iteration, prompts, text, clock)
            else:
                batch, updates = self._learn(iteration, prompts, clock)
            self.guards.check_updates(updates)
            if self.warmup.open:
                with clock("push"), self.rollouts.paused():
                    pushed = self.crew.push_weights(version=self.crew.policy_version + 1)
                updates |= push_metrics(pushed)
                self.kl_control.update(float(batch.kl.mean()), len(batch.trajectories))
            with clock("watch"):
                updates |= self.watch.look(iteration, float(batch.kl.mean()))
            metrics = iteration_metrics(batch, updates, clock, self.warmup)
            self.run.log(iteration, metrics)
            progress.update(iteration, **shown(metrics), health=self.health.look(metrics))
            if self.checkpoints.due(iteration) or stop.requested or self.watch.stopping:
                with self.run.phase("checkpoint"):
                    self.checkpoints.save(iteration, self.crew)
            self._evaluate()
            self.watch.check()
            if stop.requested:
                stop.announce()
        progress.close()
        return self.checkpoints.policy(self.settings.iterations - 1)

    def moved(self) -> list[int]:
        """Iterations with a checkpoint whose policy had left its beginning, ascending."""
        return [one for one in self.checkpoints.saved() if one >= self.warmup.iterations]

    def _learn(
        self, iteration: int, prompts: Sequence[Prompt], clock: Clock
    ) -> tuple[Batch, UpdateMetrics]:
        """Sample, score, learn: one after the other."""
        with clock("rollout"):
            trajectories = self.rollouts.collect(iteration, prompts)
        with clock("experience"):
            batch = self.experience.make(iteration, trajectories)
            self.guards.check_batch(batch)
        with clock("update"):
            train_policy = self.warmup.passed(batch.explained_variance)
            updates = update_actor_and_critic(
                self.crew,
                batch,
                self._text(iteration) if train_policy else None,
                self.settings,
                iteration,
                train_policy=train_policy,
            )
        return batch, updates

    def _evaluate(self) -> None:
        """Begin a job for each saved policy that has moved, take the results of those that end."""
        if self.evaluations is None:
            return
        for iteration in self.moved():
            self.evaluations.begin(f"{iteration:06d}", self.checkpoints.policy(iteration))
        self.evaluations.collect()

    def _text(self, iteration: int) -> Sequences | None:
        """Pre-training windows of the iteration."""
        return None if self.pretrain is None else self.pretrain.draw(iteration)
