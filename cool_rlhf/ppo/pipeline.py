"""Layout pipelined: chunks of an iteration are asked about while later ones are sampled, and learnt
from while later ones wait for their rewards; the weights change as in other layouts."""

from collections.abc import Sequence
from dataclasses import dataclass

from actors.batch import Sequences, Totals
from actors.crew import Crew
from actors.group import Pending
from actors.scoring import SamplesRefused
from cool_rlhf.ppo.batch import Batch
from cool_rlhf.ppo.experience import Asked, ExperienceMaker
from cool_rlhf.ppo.monitor.guards import Guards
from cool_rlhf.ppo.monitor.measure import Clock
from cool_rlhf.ppo.sampling.prompts import Prompt
from cool_rlhf.ppo.sampling.rollouts import Rollouts
from cool_rlhf.ppo.updates import (
    UpdateMetrics,
    begin_step,
    split_pretrain,
    step_metrics,
    update_metrics,
)
from pretrain_core.errors import RunFailed


class RefusedTooLateError(RunFailed):
    """A verifier refused a reply when others of its step had been learnt from."""


@dataclass
class Pipeline:
    """One iteration after another, each as chunks in a fixed order.

    An optimiser step's denominators are counted over all of its samples, so learning begins when
    all are sampled, and each chunk adds its gradient as soon as its rewards are there. All chunks
    were asked about before: no log-prob is one of weights that have changed.
    """

    crew: Crew
    rollouts: Rollouts
    experience: ExperienceMaker
    guards: Guards
    chunks: int
    mini_batches: int

    def learn(
        self, iteration: int, prompts: Sequence[Prompt], pretrain: Sequences | None, clock: Clock
    ) -> tuple[Batch, UpdateMetrics]:
        """Sample, score and learn one iteration.

        Raises what rollouts, experience, guards and updates raise, and RefusedTooLateError.
        """
        with clock("rollout"):
            parts = self.rollouts.chunks(iteration, prompts, self.chunks)
            asked = [self.experience.ask(part) for part in parts]
        with clock("experience"):
            # What the reward model refuses is sampled again before anything is counted.
            asked = [self.experience.scored(iteration, one) for one in asked]
        with clock("update"):
            batches: list[Batch] = []
            steps = []
            size = self.chunks // self.mini_batches
            windows = split_pretrain(pretrain, self.mini_batches)
            for number, text in enumerate(windows):
                chunks = asked[number * size : (number + 1) * size]
                steps.append(self._step(iteration, chunks, text, batches))
        return Batch.join(batches), update_metrics(steps)

    def _step(
        self, iteration: int, chunks: Sequence[Asked], text: Sequences | None, batches: list[Batch]
    ) -> dict[str, float]:
        """One optimiser step; its samples join `batches`."""
        temperature = self.rollouts.sampling.temperature
        totals = Totals.of(*(chunk.sequences for chunk in chunks), text=text)
        added: list[Pending[None]] = []
        for chunk in chunks:
            batch = self._batch(iteration, chunk)
            batches.append(batch)
            if chunk is chunks[-1]:
                ends = begin_step(self.crew, batch.experience, text, totals, temperature)
                break
            if self.crew.critic is not None:
                added.append(self.crew.critic.accumulate(batch.experience, totals))
            added.append(self.crew.policy.accumulate(batch.experience, totals, temperature))
        for part in added:
            part.result()
        return step_metrics(ends)

    def _batch(self, iteration: int, chunk: Asked) -> Batch:
        try:
            batch = self.experience.finish(iteration, chunk)
        except SamplesRefused as refused:
            raise RefusedTooLateError(
                f"{refused}; with layout.name pipelined others of its step have been learnt from,"
                " so no other reply can take its place: set rewards.unjudged to renormalise, or"
                " layout.name to split, and go on with --resume"
            ) from refused
        self.guards.check_batch(batch)
        return batch
