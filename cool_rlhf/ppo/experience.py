"""From trajectories to what the updates need: scores, log-probs, values, rewards, advantages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.batch import Experience, Sequences
from actors.crew import Crew
from actors.forward import LogprobResult, Logprobs
from actors.group import Pending
from actors.losses import full_kl
from actors.scoring import SamplesRefused
from actors.trajectories import RolloutLog, Trajectory
from cool_rlhf.ppo.algorithm import (
    ActionGrid,
    AlgorithmSettings,
    KLControl,
    ScoreScale,
    Signals,
    estimate,
    token_rewards,
)
from cool_rlhf.ppo.batch import Batch
from cool_rlhf.ppo.rewards import PendingRewards, RewardAnswer, Rewards
from cool_rlhf.ppo.sampling.rollouts import Rollouts
from pretrain_core.draws import rng
from pretrain_core.errors import RunFailed


class NothingToLearnError(RunFailed):
    """An iteration all of whose replies are left out of the updates."""


@dataclass(frozen=True)
class Values:
    """What the critic says: of the states before the actions [tokens], and after the last [n]."""

    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class Answers:
    """What the models say of one batch of samples."""

    rewards: RewardAnswer
    policy: LogprobResult
    reference: Logprobs
    values: Values | None
    distributions: tuple[Tensor, Tensor] | None
    """Of policy and reference, log-probs [drawn tokens, vocab]."""


@dataclass(frozen=True)
class Asked:
    """Samples that scorer, verifiers, policy, reference and critic were asked about."""

    trajectories: Sequence[Trajectory]
    sequences: Sequences
    rewards: PendingRewards
    policy: Pending[LogprobResult]
    reference: Pending[Logprobs]
    values: Pending[Values] | None
    distributions: tuple[Pending[Tensor], Pending[Tensor]] | None
    resampled: int = 0

    def answers(self) -> Answers:
        """Wait for all; raises SamplesRefused, GraderFailed."""
        return Answers(
            rewards=self.rewards.result(),
            policy=self.policy.result(),
            reference=self.reference.result(),
            values=None if self.values is None else self.values.result(),
            distributions=self.distributions
            and (self.distributions[0].result(), self.distributions[1].result()),
        )


@dataclass
class ExperienceMaker:
    """Asks scorer, reference, policy and critic at the same time."""

    crew: Crew
    log: RolloutLog
    rollouts: Rollouts
    algorithm: AlgorithmSettings
    rewards: Rewards
    scale: ScoreScale
    kl_control: KLControl
    critic_contexts: Mapping[str, tuple[int, ...]] | None = None
    """By condition, what the critic reads before a sample."""

    def make(self, iteration: int, trajectories: Sequence[Trajectory]) -> Batch:
        """Score and evaluate one iteration's samples; only their *tokens* reach the gradient.

        Replies that cannot be scored are sampled again, `algorithm.resamples` times. Raises
        SamplesRefused when that does not help, GraderFailed for a grader that does not answer.
        """
        asked = self._settled(iteration, self.ask(trajectories), Asked.answers)
        return self.finish(iteration, asked)

    def ask(self, trajectories: Sequence[Trajectory], resampled: int = 0) -> Asked:
        """Begin, and wait for nothing."""
        sequences = Sequences.pack([(t.tokens, t.is_action) for t in trajectories])
        temperature = self.rollouts.sampling.temperature
        return Asked(
            trajectories=trajectories,
            sequences=sequences,
            rewards=self.rewards.ask(trajectories),
            reference=self.crew.reference.logprobs(sequences, temperature),
            policy=self.crew.policy.logprobs(sequences, temperature, keep=self._keep(trajectories)),
            values=self._values(trajectories),
            distributions=self._distributions(trajectories),
            resampled=resampled,
        )

    def scored(self, iteration: int, asked: Asked) -> Asked:
        """Wait for the reward model alone: the same samples, or others for those it refuses."""
        return self._settled(iteration, asked, lambda one: one.rewards.scores.result())

    def finish(self, iteration: int, asked: Asked) -> Batch:
        """Wait for what was asked, and log its scores; raises SamplesRefused, GraderFailed."""
        answers = asked.answers()
        for name, scores in answers.rewards.scores().items():
            self.log.append_scores(iteration, name, scores)
        return self._batch(asked, answers)

    def _settled(self, iteration: int, asked: Asked, wait: Callable[[Asked], object]) -> Asked:
        for tries_left in reversed(range(self.algorithm.resamples + 1)):
            try:
                wait(asked)
                break
            except SamplesRefused as refused:
                if tries_left == 0:
                    raise
                others = self.rollouts.again(iteration, asked.trajectories, refused.reasons)
                asked = self.ask(others, asked.resampled + len(refused.reasons))
        return asked

    def _values(self, trajectories: Sequence[Trajectory]) -> Pending[Values] | None:
        """Values before the actions, and after the last one of a reply that is to be valued there.

        Such a reply gets one more token, whatever it is: the value before it is the one asked for.
        """
        if self.crew.critic is None:
            return None
        valued = [self.algorithm.truncated == "bootstrap" and _is_cut(t) for t in trajectories]
        longer = Sequences.pack(
            (t.tokens + t.tokens[-1:] * more, t.is_action + [True] * more)
            for t, more in zip(trajectories, valued, strict=True)
        )
        ends = longer.cu_seqlens[1:] - 1
        added = ends[torch.tensor(valued)]

        def cut_off(values: Tensor) -> Values:
            own = torch.ones(len(values), dtype=torch.bool)
            own[added] = False
            return Values(values[own], values[ends] * torch.tensor(valued))

        asked = self.crew.critic.values(
            longer, self._contexts(trajectories), keep=self._keep(trajectories)
        )
        return asked.then(cut_off)

    def _keep(self, trajectories: Sequence[Trajectory]) -> int | None:
        """The iteration whose update may use the forward passes of now."""
        return trajectories[0].iteration if self.crew.settings.keep_forward else None

    def _contexts(self, trajectories: Sequence[Trajectory]) -> tuple[tuple[int, ...], ...] | None:
        if self.critic_contexts is None:
            return None
        return tuple(self.critic_contexts[t.condition] for t in trajectories)

    def _distributions(
        self, trajectories: Sequence[Trajectory]
    ) -> tuple[Pending[Tensor], Pending[Tensor]] | None:
        tokens, temperature = self.algorithm.full_kl_tokens, self.rollouts.sampling.temperature
        if not tokens:
            return None
        drawn = draw_actions(trajectories, tokens, self.rollouts.seed)
        policy = self.crew.policy.distributions(drawn, temperature)
        return policy, self.crew.reference.distributions(drawn, temperature)

    def _batch(self, asked: Asked, answers: Answers) -> Batch:
        trajectories, policy, reference = asked.trajectories, answers.policy, answers.reference
        algorithm, values = self.algorithm, answers.values
        grid = ActionGrid.of(asked.sequences)
        rewarded = [answers.rewards.rewarded[t.id] for t in trajectories]
        totals = torch.tensor([one.total for one in rewarded])
        cut = torch.tensor([_is_cut(t) for t in trajectories])
        shaped = self.scale(totals, [t.condition for t in trajectories])
        shaped = shaped - algorithm.missing_end_penalty * cut
        if algorithm.truncated == "bootstrap":
            shaped = shaped.masked_fill(cut, 0.0)
        rewards = token_rewards(
            shaped,
            policy.logprobs,
            reference.logprobs,
            grid,
            self.kl_control.coefficient,
            algorithm.kl,
        )
        prompts = {t.prompt_id: row for row, t in enumerate(trajectories)}
        estimated = estimate(
            Signals(
                rewards=rewards,
                grid=grid,
                groups=torch.tensor([prompts[t.prompt_id] for t in trajectories]),
                values=None if values is None else values.before,
                after=None if values is None else values.after,
            ),
            algorithm,
        )
        behaviour = [p for t in trajectories for p in t.behaviour_logprobs]
        return Batch(
            trajectories=tuple(trajectories),
            resampled=asked.resampled,
            experience=Experience(
                ids=tuple(t.id for t in trajectories),
                sequences=asked.sequences,
                old_logprobs=policy.logprobs,
                advantages=estimated.advantages,
                returns=estimated.returns,
                old_values=None if values is None else values.before,
                behaviour_logprobs=torch.tensor(behaviour),
                reference_logprobs=reference.logprobs,
                contexts=self._contexts(trajectories),
            ),
            grid=grid,
            scores=torch.tensor([one.judged.value for one in rewarded]),
            totals=totals,
            verdicts=tuple(one.verdicts for one in rewarded),
            rm_version=answers.rewards.rm_version,
            reference_logprobs=reference.logprobs,
            entropy=policy.entropy,
            rewards=rewards,
            kl_coef=self.kl_control.coefficient,
            raw_logprobs=policy.raw,
            kept=self._kept(trajectories),
            policy_version=self.crew.policy_version,
            full_kl=answers.distributions and full_kl(*answers.distributions),
        )

    def _kept(self, trajectories: Sequence[Trajectory]) -> tuple[int, ...] | None:
        if self.algorithm.truncated != "mask":
            return None
        kept = tuple(row for row, t in enumerate(trajectories) if not _is_cut(t))
        if not kept:
            raise NothingToLearnError(
                f"all {len(trajectories)} replies were cut at the length limit, and"
                " algorithm.truncated mask leaves those out: raise sampling.max_new_tokens"
            )
        return kept


def draw_actions(trajectories: Sequence[Trajectory], count: int, seed: int) -> Sequences:
    """The first actions of drawn replies, `count` of them in all if there are so many."""
    drawn: list[tuple[list[int], list[bool]]] = []
    order = rng(seed, "full_kl", trajectories[0].iteration).permutation(len(trajectories))
    for trajectory in (trajectories[row] for row in order):
        actions = [at for at, is_action in enumerate(trajectory.is_action) if is_action][:count]
        end = actions[-1] + 1
        drawn.append((trajectory.tokens[:end], trajectory.is_action[:end]))
        count -= len(actions)
        if not count:
            break
    return Sequences.pack(drawn)


def _is_cut(trajectory: Trajectory) -> bool:
    return trajectory.finish_reason == "length"
