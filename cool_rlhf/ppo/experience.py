"""From trajectories to what the updates need: scores, log-probs, values, rewards, advantages."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.batch import Experience, Sequences
from actors.crew import Crew
from actors.trajectories import RolloutLog, Score, Trajectory
from cool_rlhf.ppo.advantages import ActionGrid, gae, token_rewards
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


@dataclass
class ExperienceMaker:
    """Asks scorer, reference, policy and critic at the same time."""

    crew: Crew
    log: RolloutLog
    algorithm: AlgorithmSettings

    def make(self, iteration: int, trajectories: Sequence[Trajectory]) -> Batch:
        """Score and evaluate one iteration's samples; only their *tokens* reach the gradient."""
        sequences = Sequences.pack([(t.tokens, t.is_action) for t in trajectories])
        spoken = [t for t in trajectories if _says_something(t)]
        pending_scores = self.crew.scorer.score(
            [t.messages for t in spoken], [t.condition for t in spoken]
        )
        pending_reference = self.crew.reference.logprobs(sequences)
        pending_policy = self.crew.policy.logprobs(sequences)
        pending_values = self.crew.critic.values(sequences)
        scored, policy = pending_scores.result(), pending_policy.result()
        reference, values = pending_reference.result(), pending_values.result()

        by_id = {t.id: self.algorithm.empty_reply_score for t in trajectories} | {
            t.id: value for t, value in zip(spoken, scored.values, strict=True)
        }
        self.log.append_scores(
            iteration,
            "reward_model",
            {
                name: Score(value=value, rm_version=scored.rm_version)
                for name, value in by_id.items()
            },
        )
        grid = ActionGrid.of(sequences)
        scores = torch.tensor([by_id[t.id] for t in trajectories])
        cut = torch.tensor([t.finish_reason == "length" for t in trajectories])
        shaped = scores - self.algorithm.missing_end_penalty * cut
        rewards = token_rewards(
            shaped, policy.logprobs, reference.logprobs, grid, self.algorithm.kl_coef
        )
        advantages, returns = gae(rewards, values, grid, self.algorithm.gamma, self.algorithm.lam)
        return Batch(
            trajectories=tuple(trajectories),
            experience=Experience(
                ids=tuple(t.id for t in trajectories),
                sequences=sequences,
                old_logprobs=policy.logprobs,
                advantages=advantages,
                returns=returns,
            ),
            grid=grid,
            scores=scores,
            rm_version=scored.rm_version,
            reference_logprobs=reference.logprobs,
            entropy=policy.entropy,
            values=values,
            rewards=rewards,
        )


def _says_something(trajectory: Trajectory) -> bool:
    reply = trajectory.messages[-1]
    return bool(reply.content.strip() or reply.actions)
