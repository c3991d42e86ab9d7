"""From trajectories to what the updates need: scores, log-probs, values, rewards, advantages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.batch import Experience, Sequences
from actors.crew import Crew
from actors.forward import LogprobResult, Logprobs
from actors.group import Pending
from actors.scoring import Judged, SamplesRefused
from actors.trajectories import REWARD, RolloutLog, Score, Trajectory
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
from cool_rlhf.ppo.rollouts import Rollouts
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

    trajectories: Sequence[Trajectory]
    sequences: Sequences
    scores: Mapping[str, Judged]
    """By trajectory id."""
    rm_version: str
    policy: LogprobResult
    reference: Logprobs
    values: Values | None


@dataclass
class ExperienceMaker:
    """Asks scorer, reference, policy and critic at the same time."""

    crew: Crew
    log: RolloutLog
    rollouts: Rollouts
    algorithm: AlgorithmSettings
    scale: ScoreScale
    kl_control: KLControl

    def make(self, iteration: int, trajectories: Sequence[Trajectory]) -> Batch:
        """Score and evaluate one iteration's samples; only their *tokens* reach the gradient.

        Replies that cannot be scored are sampled again, `algorithm.resamples` times. Raises
        SamplesRefused when that does not help.
        """
        resampled = 0
        for tries_left in reversed(range(self.algorithm.resamples + 1)):
            try:
                answers = self._ask(trajectories)
                break
            except SamplesRefused as refused:
                if tries_left == 0:
                    raise
                trajectories = self.rollouts.again(iteration, trajectories, refused.reasons)
                resampled += len(refused.reasons)
        self.log.append_scores(
            iteration,
            REWARD,
            {
                name: Score(value=score, rm_version=answers.rm_version, spread=spread)
                for name, (score, spread) in answers.scores.items()
            },
        )
        return self._batch(answers, resampled)

    def _ask(self, trajectories: Sequence[Trajectory]) -> Answers:
        sequences = Sequences.pack([(t.tokens, t.is_action) for t in trajectories])
        spoken = [t for t in trajectories if _says_something(t)]
        temperature = self.rollouts.sampling.temperature
        pending_scores = self.crew.scorer.score(
            [t.messages for t in spoken], [t.condition for t in spoken], [t.id for t in spoken]
        )
        pending_reference = self.crew.reference.logprobs(sequences, temperature)
        pending_policy = self.crew.policy.logprobs(sequences, temperature)
        pending_values = self._values(trajectories)
        scored = pending_scores.result()
        judged = map(Judged, scored.values, scored.spreads)
        silent = {t.id: Judged(self.algorithm.empty_reply_score) for t in trajectories}
        return Answers(
            trajectories=trajectories,
            sequences=sequences,
            scores=silent | {t.id: score for t, score in zip(spoken, judged, strict=True)},
            rm_version=scored.rm_version,
            policy=pending_policy.result(),
            reference=pending_reference.result(),
            values=None if pending_values is None else pending_values.result(),
        )

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

        return self.crew.critic.values(longer).then(cut_off)

    def _batch(self, answers: Answers, resampled: int) -> Batch:
        trajectories, policy, reference = answers.trajectories, answers.policy, answers.reference
        algorithm, values = self.algorithm, answers.values
        grid = ActionGrid.of(answers.sequences)
        scores = torch.tensor([answers.scores[t.id].value for t in trajectories])
        cut = torch.tensor([_is_cut(t) for t in trajectories])
        shaped = self.scale(scores, [t.condition for t in trajectories])
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
            resampled=resampled,
            experience=Experience(
                ids=tuple(t.id for t in trajectories),
                sequences=answers.sequences,
                old_logprobs=policy.logprobs,
                advantages=estimated.advantages,
                returns=estimated.returns,
                old_values=None if values is None else values.before,
                behaviour_logprobs=torch.tensor(behaviour),
                reference_logprobs=reference.logprobs,
            ),
            grid=grid,
            scores=scores,
            rm_version=answers.rm_version,
            reference_logprobs=reference.logprobs,
            entropy=policy.entropy,
            rewards=rewards,
            kl_coef=self.kl_control.coefficient,
            raw_logprobs=policy.raw,
            kept=self._kept(trajectories),
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


def _is_cut(trajectory: Trajectory) -> bool:
    return trajectory.finish_reason == "length"


def _says_something(trajectory: Trajectory) -> bool:
    reply = trajectory.messages[-1]
    return bool(reply.content.strip() or reply.actions)
