"""From scores to the reward of each token."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from actors.losses import KL_ESTIMATES, KLEstimate
from cool_rlhf.ppo.algorithm.grid import ActionGrid
from cool_rlhf.ppo.algorithm.settings import AlgorithmSettings

_LEAST_DEVIATION = 1e-6


def token_rewards(
    scores: Tensor,
    logprobs: Tensor,
    reference_logprobs: Tensor,
    grid: ActionGrid,
    kl_coef: float,
    kl: KLEstimate = "k1",
) -> Tensor:
    """Score [n] at the last action token, −β·KL(π ‖ π_ref) at each action token (facts F7).

    Returns [tokens] fp32, zero at tokens that are no actions.
    """
    estimate = KL_ESTIMATES[kl](grid.gather(logprobs - reference_logprobs))
    rewards = -kl_coef * grid.scatter(estimate, logprobs)
    rewards[grid.last] += scores.to(rewards.dtype)
    return rewards


@dataclass
class Moments:
    """Count, mean and sum of squared deviations of numbers seen so far (Welford, in batches)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: Tensor) -> None:
        """Take in `[n]` more."""
        new, fresh = len(values), values.double()
        mean = float(fresh.mean())
        gap, total = mean - self.mean, self.count + new
        self.squares += float((fresh - mean).square().sum()) + gap**2 * self.count * new / total
        self.mean += gap * new / total
        self.count = total

    @property
    def deviation(self) -> float:
        """Standard deviation of all of them."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0


@dataclass
class ScoreScale:
    """Cuts scores, and measures them against all scores so far, these included.

    With `score_scale` "condition" each condition has its own scale: a reward model's scores of two
    conditions need not be alike.
    """

    settings: AlgorithmSettings
    seen: dict[str, Moments] = field(default_factory=dict)

    def __call__(self, scores: Tensor, conditions: Sequence[str]) -> Tensor:
        """[n] → [n]; takes the scores in, so that a batch must come once only."""
        cut = self.settings.score_clip
        scores = scores if cut is None else scores.clamp(-cut, cut)
        if self.settings.score_scale == "none":
            return scores
        one_scale = self.settings.score_scale == "all"
        names = ["all" if one_scale else condition for condition in conditions]
        scaled = torch.empty_like(scores)
        for name in sorted(set(names)):
            rows = torch.tensor([name == other for other in names])
            moments = self.seen.setdefault(name, Moments())
            moments.add(scores[rows])
            deviation = max(moments.deviation, _LEAST_DEVIATION)
            scaled[rows] = (scores[rows] - moments.mean) / deviation
        return scaled

    def state(self) -> dict[str, Any]:
        """JSON-able."""
        return {name: vars(moments) for name, moments in self.seen.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.seen = {name: Moments(**moments) for name, moments in state.items()}
