"""The critic's loss."""

from collections.abc import Mapping

import torch
from torch import Tensor

from actors.losses.stats import Stats, positive


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
    positive(denominator)
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
