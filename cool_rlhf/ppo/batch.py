"""One iteration's samples with all that was computed on them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from actors.batch import Experience
from actors.scoring import ScoreError
from actors.trajectories import Trajectory
from cool_rlhf.ppo.algorithm import ActionGrid
from reward.compose import Verdicts


@dataclass(frozen=True)
class Batch:
    """What the updates, the guards and the metrics read; packed [tokens] unless said."""

    trajectories: tuple[Trajectory, ...]
    experience: Experience
    grid: ActionGrid
    scores: Tensor
    """[n]: the conditional reward model's raw scores."""
    totals: Tensor
    """[n]: whole rewards, of scores and verdicts."""
    rm_version: str
    reference_logprobs: Tensor
    entropy: Tensor
    rewards: Tensor
    verdicts: tuple[Verdicts, ...] = ()
    """What verifiers say of each reply, where there are some."""
    kl_coef: float = 0.0
    """β of the rewards."""
    raw_logprobs: Tensor | None = None
    """Of the policy at temperature 1; None where `experience.old_logprobs` are."""
    kept: tuple[int, ...] | None = None
    """Samples to learn from; None: all."""
    resampled: int = 0
    """Replies drawn in the place of others that could not be scored."""
    full_kl: Tensor | None = None
    """[drawn tokens]: KL to the reference over the whole vocabulary; None where it is not asked."""
    policy_version: int = 0
    """Of the policy that learns from these samples."""

    @classmethod
    def join(cls, parts: Sequence["Batch"]) -> "Batch":
        """All of them, one after the other.

        Raises ScoreError where several reward models gave their scores.
        """
        versions = sorted({part.rm_version for part in parts})
        if len(versions) > 1:
            raise ScoreError(f"one iteration was scored by several models: {versions}")
        experience = Experience.join([part.experience for part in parts])
        tensors: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts])
            for name in ("scores", "totals", "reference_logprobs", "entropy", "rewards")
        }
        raw = [part.raw_logprobs for part in parts if part.raw_logprobs is not None]
        full = [part.full_kl for part in parts if part.full_kl is not None]
        return replace(
            parts[0],
            **tensors,
            trajectories=tuple(t for part in parts for t in part.trajectories),
            experience=experience,
            grid=ActionGrid.of(experience.sequences),
            raw_logprobs=torch.cat(raw) if raw else None,
            full_kl=torch.cat(full) if full else None,
            verdicts=tuple(verdict for part in parts for verdict in part.verdicts),
            resampled=sum(part.resampled for part in parts),
        )

    @property
    def learnt(self) -> Experience:
        """What the updates see."""
        return self.experience if self.kept is None else self.experience.select(self.kept)

    @property
    def staleness(self) -> Tensor:
        """[tokens]: how many versions older what sampled an action is than what learns from it."""
        versions = torch.tensor([v for t in self.trajectories for v in t.policy_version])
        return (self.policy_version - versions) * self.experience.sequences.is_action

    @property
    def kl(self) -> Tensor:
        """[n]: Σ over a reply of log π − log π_ref, nats (the k1 estimate)."""
        gap = self.experience.old_logprobs - self.reference_logprobs
        return self.grid.gather(gap).sum(1)

    @property
    def explained_variance(self) -> float | None:
        """1 − Var(return − value) / Var(return) over the action tokens that are learnt from, before
        the critic's update; None without a critic."""
        learnt = self.learnt
        if learnt.returns is None or learnt.old_values is None:
            return None
        at = learnt.sequences.is_action
        returns, values = learnt.returns[at], learnt.old_values[at]
        variance = returns.var(correction=0)
        if variance == 0:
            return 0.0
        return float(1 - (returns - values).var(correction=0) / variance)
