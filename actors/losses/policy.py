"""The policy's losses, one registered function each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from actors.losses.kl import KL_ESTIMATES
from actors.losses.shares import Aggregation
from actors.losses.stats import Stats
from pretrain_core.settings import Settings

PolicyLossName = Literal["clip", "dual_clip", "truncated_is", "decoupled"]
IMPORTANCE_SAMPLING: tuple[PolicyLossName, ...] = ("truncated_is", "decoupled")
"""Losses that divide by the probabilities of the distribution sampled from."""


class PolicyLossSettings(Settings):
    """What the policy minimises beside the pre-training loss (facts F7)."""

    name: PolicyLossName = "clip"
    clip_range: float = Field(default=0.2, gt=0, lt=1, description="ε of PPO's clipped ratio")
    clip_range_high: float | None = Field(
        default=None, gt=0, description="ε above 1, where it differs from that below"
    )
    dual_clip: float = Field(
        default=3.0, gt=1, description="dual_clip: largest loss of a bad action, in |advantages|"
    )
    weight_cap: float = Field(
        default=2.0,
        ge=1,
        description="largest importance weight; truncated_is cuts there, decoupled drops the token",
    )
    aggregation: Aggregation = Field(
        default="token_mean", description="whether every token or every reply weighs the same"
    )
    kl_coef: float = Field(default=0.0, ge=0, description="weight of the KL to the reference")
    kl: Literal["k2", "k3"] = Field(default="k2", description="its estimate")

    @field_validator("kl", mode="before")
    @classmethod
    def _has_a_gradient(cls, value: Any) -> Any:
        if value == "k1":
            raise ValueError(
                "k1 as a loss has a gradient of zero on average: take k2, or put k1 into the"
                " reward (algorithm.kl_coef)"
            )
        return value

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> "PolicyLossSettings":
        idle = {
            "dual_clip": self.name != "dual_clip",
            "weight_cap": self.name not in IMPORTANCE_SAMPLING,
            "kl": self.kl_coef == 0,
        }
        for key, is_idle in idle.items():
            if is_idle and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key} has no effect with name {self.name} and kl_coef {self.kl_coef}"
                )
        return self


@dataclass(frozen=True)
class Actions:
    """What is known of sampled tokens, fp32 `[actions]` each.

    `logprobs`: of the policy that learns. `old`: of the policy before this iteration's steps, by
    the trainer (the proximal policy). `behaviour`: of the distribution really sampled from, by the
    rollout engine. `reference`: of the frozen policy. The last two only where a loss asks for them.
    """

    logprobs: Tensor
    old: Tensor
    advantages: Tensor
    behaviour: Tensor | None = None
    reference: Tensor | None = None


@dataclass(frozen=True)
class TokenLoss:
    """A loss and whether it was clipped `[actions]`; importance weights where there are some."""

    loss: Tensor
    clipped: Tensor
    weights: Tensor | None = None
    dropped: Tensor | None = None


PolicyLoss = Callable[[Actions, PolicyLossSettings], TokenLoss]


def clip(actions: Actions, settings: PolicyLossSettings) -> TokenLoss:
    """PPO's clipped surrogate (arXiv 1707.06347 eq. 7), negated: max(−A·ρ, −A·clip(ρ)).

    ρ is the probability ratio to the old policy. With `clip_range_high` the upper side has its own
    ε (arXiv 2503.14476).
    """
    low, high = settings.clip_range, settings.clip_range_high or settings.clip_range
    ratio = (actions.logprobs - actions.old).exp()
    plain = -actions.advantages * ratio
    clipped = -actions.advantages * ratio.clamp(1 - low, 1 + high)
    return TokenLoss(torch.maximum(plain, clipped), clipped > plain)


def dual_clip(actions: Actions, settings: PolicyLossSettings) -> TokenLoss:
    """`clip`, and where A < 0 no more than c·|A| (arXiv 1912.09729 eq. 5)."""
    single = clip(actions, settings)
    most = -actions.advantages * settings.dual_clip
    beyond = (actions.advantages < 0) & (single.loss > most)
    return TokenLoss(torch.where(beyond, most, single.loss), single.clipped | beyond)


def truncated_is(actions: Actions, settings: PolicyLossSettings) -> TokenLoss:
    """`clip` times min(π_old / π_behaviour, cap): what the engine samples from is not quite what
    the trainer computes (E. Ionides, "Truncated Importance Sampling", 2008).
    """
    single, weights = clip(actions, settings), _importance(actions)
    capped = weights.clamp(max=settings.weight_cap)
    return TokenLoss(capped * single.loss, single.clipped, weights, weights > settings.weight_cap)


def decoupled(actions: Actions, settings: PolicyLossSettings) -> TokenLoss:
    """`clip` around the proximal policy, times π_proximal / π_behaviour (arXiv 2110.00641 eq. 6;
    arXiv 2505.24298 section 5): for samples of older policies, each token of its own version.

    Tokens whose weight is beyond the cap are too stale to learn from and drop out.
    """
    single, weights = clip(actions, settings), _importance(actions)
    dropped = weights > settings.weight_cap
    kept = weights.masked_fill(dropped, 0.0)
    return TokenLoss(kept * single.loss, single.clipped & ~dropped, weights, dropped)


POLICY_LOSSES: Mapping[PolicyLossName, PolicyLoss] = {
    "clip": clip,
    "dual_clip": dual_clip,
    "truncated_is": truncated_is,
    "decoupled": decoupled,
}


def policy_loss(
    actions: Actions, shares: Tensor, settings: PolicyLossSettings | None = None
) -> tuple[Tensor, Stats]:
    """Σ share · (loss + kl_coef · KL) over tokens; `shares` `[actions]` as of `token_shares`.

    Raises ValueError where what the loss needs was not given.
    """
    settings = settings or PolicyLossSettings()
    token = POLICY_LOSSES[settings.name](actions, settings)
    loss = (shares * token.loss).sum()
    stats = {"loss/policy_avg": loss.item(), **_stats(actions, shares, token)}
    if settings.kl_coef:
        if actions.reference is None:
            raise ValueError("a KL in the loss needs the reference's log-probs")
        kl = (shares * KL_ESTIMATES[settings.kl](actions.logprobs - actions.reference)).sum()
        loss = loss + settings.kl_coef * kl
        stats["loss/kl_avg"] = kl.item()
    return loss, stats


@torch.no_grad()
def _stats(actions: Actions, shares: Tensor, token: TokenLoss) -> Stats:
    difference = actions.logprobs - actions.old
    ratio = difference.exp()

    def mean(values: Tensor) -> float:
        return (shares * values).sum().item()

    def largest(values: Tensor) -> float:
        return values.max().item() if len(values) else 0.0

    stats = {
        "policy/clipfrac_avg": mean(token.clipped.to(shares.dtype)),
        # TRL's estimate of KL(old ‖ new): half the mean squared difference.
        "policy/approxkl_avg": 0.5 * mean(difference.square()),
        "policy/ratio_avg": mean(ratio),
        "policy/ratio_max": largest(ratio),
    }
    if token.weights is not None and token.dropped is not None:
        stats |= {
            "policy/is_weight_avg": mean(token.weights),
            "policy/is_weight_max": largest(token.weights),
            "policy/is_beyond_cap_avg": mean(token.dropped.to(shares.dtype)),
        }
    return stats


def _importance(actions: Actions) -> Tensor:
    """π_old / π_behaviour `[actions]`, a constant of the loss."""
    if actions.behaviour is None:
        raise ValueError("importance sampling needs the log-probs of the distribution sampled from")
    return (actions.old - actions.behaviour).exp()
