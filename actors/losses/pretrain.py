"""The pre-training loss that PPO mixes in."""

from torch import Tensor

from actors.losses.stats import Stats, positive


def pretrain_loss(logprobs: Tensor, *, denominator: int) -> tuple[Tensor, Stats]:
    """Σ −log p / N over the pre-training targets `[targets]` (report §4.2.3)."""
    positive(denominator)
    loss = -logprobs.sum() / denominator
    return loss, {"loss/pretrain_avg": loss.item()}
