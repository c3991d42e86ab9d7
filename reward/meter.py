"""Sums and counts of training metrics between two log lines."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from reward.losses import RewardLoss
from reward.pairs import Pair


class Meter:
    """Means over everything added since the last `drain`: exact, however batches differ in size."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, float] = defaultdict(float)

    def add(self, name: str, total: float, count: float) -> None:
        """Add `count` values that sum to `total`."""
        self._sums[name] += total
        self._counts[name] += count

    def state(self) -> dict[str, list[float]]:
        """Name → [sum, count] of what was not drained yet, for a checkpoint."""
        return {name: [self._sums[name], count] for name, count in self._counts.items()}

    def drain(self) -> dict[str, float]:
        """Means since the last call; names without values are left out."""
        means = {n: self._sums[n] / count for n, count in self._counts.items() if count}
        self._sums.clear()
        self._counts.clear()
        return means


def batch_sums(
    pairs: Sequence[Pair], scores: Tensor, loss: RewardLoss, conditions: Sequence[str], bound: float
) -> dict[str, tuple[float, float]]:
    """Metric → (sum, count) of one batch, the loss first, the same names on every rank.

    `scores` [2 · pairs]: the chosen sides, then the rejected ones. Losses are weighted as trained.
    """
    count = float(len(pairs))
    chosen, rejected = scores.detach()[: len(pairs)], scores.detach()[len(pairs) :]
    right = (chosen > rejected).float()
    weights = torch.tensor([pair.weight for pair in pairs], device=scores.device)
    held = torch.tensor([float(bool(pair.targets)) for pair in pairs], device=scores.device)
    distillation = torch.zeros_like(held) if loss.distillation is None else loss.distillation
    weighted = {
        "loss/reward": (loss.per_pair, weights),
        "loss/ranking": (loss.ranking, weights * (1 - held)),
        "loss/penalty": (loss.penalty, weights * (1 - held)),
        "loss/distillation": (distillation, weights * held),
    }
    plain = {
        "rewards/accuracies": right,
        "rewards/margins": chosen - rejected,
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
    }
    rows = {
        name: (float((values.detach() * share).sum()), float(share.sum()))
        for name, (values, share) in weighted.items()
    }
    rows |= {name: (float(values.sum()), count) for name, values in plain.items()}
    rows["rewards/outside_band"] = (float((scores.detach().abs() > bound).sum()), 2 * count)
    for name in conditions:
        mine = [row for row, pair in enumerate(pairs) if pair.condition == name]
        rows[f"rm/{name}/accuracy"] = (float(right[mine].sum()), float(len(mine)))
    tokens = float(sum(sum(pair.lengths) for pair in pairs))
    rows["perf/batch_tokens"] = (tokens, float(bool(pairs)))
    return rows
