"""Reward-model losses: focal ranking loss, logarithmic barrier (report §4.2.1), distillation.

All of it in fp32, whatever the dtype of the scores.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from reward.settings import LossSettings

CLAMP_MARGIN = 1e-3  # from the bound, where the clamped barrier stops


@dataclass(frozen=True)
class RewardLoss:
    """Per-pair terms [pairs]; `loss` is the mean over the pairs of this batch.

    `distillation` stands in `per_pair` for pairs with targets, the other two for those without.
    """

    ranking: Tensor
    penalty: Tensor
    per_pair: Tensor
    distillation: Tensor | None = None

    @property
    def loss(self) -> Tensor:
        """Mean over pairs (scalar)."""
        return self.per_pair.mean()


def focal_ranking_loss(
    chosen: Tensor, rejected: Tensor, gamma: float = 2.0, margin: Tensor | None = None
) -> Tensor:
    """−(1 − 2·max(0, P − ½))^γ · log P with P = σ(chosen − rejected − margin), per pair [pairs].

    γ = 0 is the Bradley-Terry loss. The gradient flows through the focal factor too.
    """
    difference = _difference(chosen, rejected, margin)
    log_p = F.logsigmoid(difference)
    if gamma == 0:
        return -log_p
    # 1 − 2·max(0, P − ½) = 2·σ(−d) for d > 0: written so that it does not cancel to zero in fp32
    # for confident pairs.
    factor = 2 * torch.sigmoid(-F.relu(difference))
    return -(factor**gamma) * log_p


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, margin: Tensor | None = None) -> Tensor:
    """−log σ(chosen − rejected − margin), per pair [pairs]."""
    return -F.logsigmoid(_difference(chosen, rejected, margin))


def log_barrier_penalty(x: Tensor, bound: float = 5.0, linear_beyond: float = 4.95) -> Tensor:
    """−(log(bound + x) + log(bound − x)) per score; linear with the same slope past the seam.

    Once continuously differentiable everywhere, so a score outside the band is pulled back instead
    of losing its gradient. Raises ValueError unless 0 < linear_beyond < bound.
    """
    if not 0 < linear_beyond < bound:
        raise ValueError(f"linear_beyond {linear_beyond} must lie between 0 and bound {bound}")
    x = x.float()
    inside = x.clamp(-linear_beyond, linear_beyond)
    slope = 2 * linear_beyond / (bound**2 - linear_beyond**2)  # 19.9 for the report's band
    beyond = F.relu(x.abs() - linear_beyond)
    return -(torch.log(bound + inside) + torch.log(bound - inside)) + slope * beyond


def clamped_barrier_penalty(x: Tensor, bound: float = 5.0) -> Tensor:
    """The barrier on scores clamped into the band: no gradient outside (for comparison)."""
    inside = x.float().clamp(CLAMP_MARGIN - bound, bound - CLAMP_MARGIN)
    return -(torch.log(bound + inside) + torch.log(bound - inside))


def score_penalty(x: Tensor, settings: LossSettings) -> Tensor:
    """The penalty that the settings name, per score, in the shape of `x`."""
    if settings.penalty == "barrier":
        return log_barrier_penalty(x, settings.bound, settings.linear_beyond)
    if settings.penalty == "clamped_barrier":
        return clamped_barrier_penalty(x, settings.bound)
    if settings.penalty == "l2":
        return x.float().square()
    return torch.zeros_like(x, dtype=torch.float32)


def reward_loss(
    chosen: Tensor,
    rejected: Tensor,
    settings: LossSettings | None = None,
    margin: Tensor | None = None,
) -> RewardLoss:
    """Ranking loss + λ · mean of the two penalties, per pair [pairs] or [pairs, heads]."""
    s = settings or LossSettings()
    if s.ranking == "focal":
        ranking = focal_ranking_loss(chosen, rejected, s.gamma, margin)
    else:
        ranking = bradley_terry_loss(chosen, rejected, margin)
    penalty = 0.5 * (score_penalty(chosen, s) + score_penalty(rejected, s))
    return RewardLoss(ranking, penalty, ranking + s.penalty_weight * penalty)


def score_distillation_loss(
    chosen: Tensor, rejected: Tensor, targets: Tensor, margin_weight: float = 0.0
) -> Tensor:
    """½·(e₀² + e₁²) + ½·margin_weight·(e₀ − e₁)² of the errors, in the shape of `chosen`.

    `targets` [2, *shape] of chosen and rejected. Unlike a ranking loss it keeps its gradient where
    a pair is ranked well, and it holds both scores themselves; `margin_weight` is that of their
    difference, which is what ranks. Raises ValueError for targets of another shape.
    """
    scores = torch.stack((chosen.float(), rejected.float()))
    if scores.shape != targets.shape:
        raise ValueError(f"targets {tuple(targets.shape)} of scores {tuple(scores.shape)}")
    errors = scores - targets.float()
    return 0.5 * (errors.square().sum(dim=0) + margin_weight * (errors[0] - errors[1]).square())


def with_targets(
    loss: RewardLoss,
    chosen: Tensor,
    rejected: Tensor,
    targets: Tensor,
    weight: float,
    margin_weight: float = 0.0,
) -> RewardLoss:
    """The loss with `weight` · score distillation for the pairs that have targets.

    `targets` [2, pairs] or [2, pairs, heads], NaN for pairs without: those keep their loss.
    """
    held = ~targets[0].isnan()
    # A NaN must not stand in a branch that is not taken: its gradient would be one too.
    distance = score_distillation_loss(chosen, rejected, targets.nan_to_num(), margin_weight)
    per_pair = torch.where(held, weight * distance, loss.per_pair)
    return RewardLoss(loss.ranking, loss.penalty, per_pair, distance)


def _difference(chosen: Tensor, rejected: Tensor, margin: Tensor | None) -> Tensor:
    if chosen.shape != rejected.shape:
        raise ValueError(
            f"chosen {tuple(chosen.shape)} and rejected {tuple(rejected.shape)} differ"
        )
    difference = chosen.float() - rejected.float()
    return difference if margin is None else difference - margin.float()
