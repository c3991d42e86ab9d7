"""From trajectories to what the updates need: scores, log-probs, values, rewards, advantages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.batch import Experience, Sequences
from actors.crew import Crew
from actors.forward import LogprobResult, Logprobs
from actors.scoring import Judged, SamplesRefused
from actors.trajectories import REWARD, RolloutLog, Score, Trajectory
from cool_rlhf.ppo.advantages import ActionGrid, gae, token_rewards
from cool_rlhf.ppo.rollouts import Rollouts
from cool_rlhf.ppo.settings import AlgorithmSettings


@dataclass(frozen=True)
class Batch:
    """One iteration's samples with all that was computed on them; packed [tokens] unless said."""

    trajectories: tuple[Trajectory, ...]
    experience: Experience
    grid: ActionGrid
    scores: Tensor
    """[n]: the conditional reward model's raw scores."""
    rm_version: str
    reference_logprobs: Tensor
    entropy: Tensor
    values: Tensor
    rewards: Tensor
    resampled: int = 0
    """Replies drawn in the place of others that could not be scored."""

    @property
    def kl(self) -> Tensor:
        """[n]: Σ over a reply of log π − log π_ref, nats (the k1 estimate)."""
        gap = self.experience.old_logprobs - self.reference_logprobs
        return self.grid.gather(gap).sum(1)

    @property
    def explained_variance(self) -> float:
        """1 − Var(return − value) / Var(return) over action tokens, before the critic's update."""
        returns = self.grid.gather(self.experience.returns)[self.grid.valid]
        values = self.grid.gather(self.values)[self.grid.valid]
        variance = returns.var(correction=0)
        if variance == 0:
            return 0.0
        return float(1 - (returns - values).var(correction=0) / variance)


@dataclass(frozen=True)
class Answers:
    """What the four models say of one batch of samples."""

    trajectories: Sequence[Trajectory]
    sequences: Sequences
    scores: Mapping[str, Judged]
    """By trajectory id."""
    rm_version: str
    policy: LogprobResult
    reference: Logprobs
    values: Tensor


@dataclass
class ExperienceMaker:
    """Asks scorer, reference, policy and critic at the same time."""

    crew: Crew
    log: RolloutLog
    rollouts: Rollouts
    algorithm: AlgorithmSettings

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
        pending_scores = self.crew.scorer.score(
            [t.messages for t in spoken], [t.condition for t in spoken], [t.id for t in spoken]
        )
        pending_reference = self.crew.reference.logprobs(sequences)
        pending_policy = self.crew.policy.logprobs(sequences)
        pending_values = self.crew.critic.values(sequences)
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
            values=pending_values.result(),
        )

    def _batch(self, answers: Answers, resampled: int) -> Batch:
        trajectories, policy, reference = answers.trajectories, answers.policy, answers.reference
        grid = ActionGrid.of(answers.sequences)
        scores = torch.tensor([answers.scores[t.id].value for t in trajectories])
        cut = torch.tensor([t.finish_reason == "length" for t in trajectories])
        shaped = scores - self.algorithm.missing_end_penalty * cut
        rewards = token_rewards(
            shaped, policy.logprobs, reference.logprobs, grid, self.algorithm.kl_coef
        )
        advantages, returns = gae(
            rewards, answers.values, grid, self.algorithm.gamma, self.algorithm.lam
        )
        return Batch(
            trajectories=tuple(trajectories),
            resampled=resampled,
            experience=Experience(
                ids=tuple(t.id for t in trajectories),
                sequences=answers.sequences,
                old_logprobs=policy.logprobs,
                advantages=advantages,
                returns=returns,
            ),
            grid=grid,
            scores=scores,
            rm_version=answers.rm_version,
            reference_logprobs=reference.logprobs,
            entropy=policy.entropy,
            values=answers.values,
            rewards=rewards,
        )


def _says_something(trajectory: Trajectory) -> bool:
    reply = trajectory.messages[-1]
    return bool(reply.content.strip() or reply.actions)
