"""Losses of PPO as pure functions on packed tensors; sums over *global* denominators.

Every loss is Σ over the tokens given, divided by a denominator that covers all micro-batches and
ranks: adding the losses of the parts gives the loss of the whole, however it was cut.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Stats = dict[str, float]
"""Metrics of one part: they add up over parts, except names that end in `_max`."""


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    denominator: int,
    clip_range: float = 0.2,
) -> tuple[Tensor, Stats]:
    """PPO's clipped surrogate (arXiv 1707.06347 eq. 7), negated: Σ max(−A·ρ, −A·clip(ρ)) / N.

    All `[actions]`. ρ is the probability ratio to the policy that `old_logprobs` come from.
    """
    _positive(denominator)
    difference = logprobs - old_logprobs
    ratio = difference.exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    loss = torch.maximum(plain, clipped).sum() / denominator
    with torch.no_grad():
        stats = {
            "loss/policy_avg": loss.item(),
            "policy/clipfrac_avg": (clipped > plain).sum().item() / denominator,
            # TRL's estimate of KL(old ‖ new): half the mean squared difference.
            "policy/approxkl_avg": 0.5 * difference.square().sum().item() / denominator,
            "policy/ratio_avg": ratio.sum().item() / denominator,
            "policy/ratio_max": ratio.max().item() if len(ratio) else 0.0,
        }
    return loss, stats


def value_loss(
    values: Tensor,
    returns: Tensor,
    *,
    denominator: int,
    old_values: Tensor | None = None,
    clip_range: float | None = None,
) -> tuple[Tensor, Stats]:
    """Σ ½·(V − R)² / N, all `[actions]`; unclipped as in the report unless `clip_range` is given.

    With `clip_range` (and `old_values`), values further than that from the old ones pay the
    larger of both errors. Raises ValueError when only one of the two is given.
    """
    _positive(denominator)
    if (old_values is None) != (clip_range is None):
        raise ValueError("value clipping takes both old_values and clip_range")
    errors = (values - returns).square()
    if old_values is not None and clip_range is not None:
        near = old_values + (values - old_values).clamp(-clip_range, clip_range)
        errors = torch.maximum(errors, (near - returns).square())
    loss = 0.5 * errors.sum() / denominator
    with torch.no_grad():
        residual = (returns - values).double()
        stats = {
            "loss/value_avg": loss.item(),
            "critic/values_mean": values.sum().item() / denominator,
            "critic/returns_mean": returns.sum().item() / denominator,
            "critic/returns_square": returns.double().square().sum().item() / denominator,
            "critic/residual_mean": residual.sum().item() / denominator,
            "critic/residual_square": residual.square().sum().item() / denominator,
        }
    return loss, stats


def pretrain_loss(logprobs: Tensor, *, denominator: int) -> tuple[Tensor, Stats]:
    """Σ −log p / N over the pre-training targets `[targets]` (report §4.2.3)."""
    _positive(denominator)
    loss = -logprobs.sum() / denominator
    return loss, {"loss/pretrain_avg": loss.item()}


def add_stats(parts: Iterable[Mapping[str, float]]) -> Stats:
    """Join the stats of micro-batches or ranks: sums, and the maximum of names in `_max`."""
    total: Stats = {}
    for part in parts:
        for name, value in part.items():
            if name not in total:
                total[name] = value
            elif name.endswith("_max"):
                total[name] = max(total[name], value)
            else:
                total[name] += value
    return total


def with_explained_variance(stats: Mapping[str, float]) -> Stats:
    """Replace the moments of `value_loss` by `critic/vf_explained_var` = 1 − Var(R−V) / Var(R).

    0 when the returns do not vary.
    """
    result = dict(stats)
    returns_square = result.pop("critic/returns_square")
    residual_mean = result.pop("critic/residual_mean")
    residual_square = result.pop("critic/residual_square")
    variance = returns_square - result["critic/returns_mean"] ** 2
    residual = residual_square - residual_mean**2
    explained = 1 - residual / variance if variance > 1e-12 else 0.0
    return result | {"critic/vf_explained_var": explained}


def _positive(denominator: int) -> None:
    if denominator <= 0:
        raise ValueError(f"the global denominator must be positive, is {denominator}")
