"""Value and pre-training loss by hand; independence of the cut (fault 10)."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from actors.losses import (
    add_stats,
    pretrain_loss,
    value_loss,
    with_explained_variance,
)

OLD = torch.tensor([-1.0, -2.0, -0.5, -1.0], dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0, 1.0, -1.0, 2.0], dtype=torch.float64)


def test_value_loss_is_half_the_squared_error_without_clip() -> None:
    values, returns = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 5.0])
    assert value_loss(values, returns, denominator=4)[0].item() == pytest.approx(0.5 * 5 / 4)
    near = value_loss(values, returns, denominator=4, old_values=torch.zeros(2), clip_range=0.5)[0]
    assert near.item() == pytest.approx(0.5 * (1 + 4.5**2) / 4)
    with pytest.raises(ValueError, match="both"):
        value_loss(values, returns, denominator=4, clip_range=0.5)


def test_explained_variance_from_parts_equals_that_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    returns = torch.randn(40, generator=generator) + 3
    values = returns + 0.5 * torch.randn(40, generator=generator)
    parts = [
        value_loss(values[part], returns[part], denominator=40)[1]
        for part in (slice(0, 7), slice(7, 40))
    ]
    stats = with_explained_variance(add_stats(parts))
    expected = 1 - (returns - values).var(correction=0) / returns.var(correction=0)
    assert stats["critic/vf_explained_var"] == pytest.approx(expected.item(), abs=1e-4)
    constant = value_loss(values, torch.ones(40), denominator=40)[1]
    assert with_explained_variance(constant)["critic/vf_explained_var"] == 0.0


def test_pretrain_loss_is_the_mean_negative_logprob() -> None:
    loss, stats = pretrain_loss(torch.tensor([-1.0, -2.0]), denominator=4)
    assert loss.item() == 0.75
    assert stats == {"loss/pretrain_avg": 0.75}


def _value(x: Tensor) -> Tensor:
    return value_loss(x, ADVANTAGES, denominator=3)[0]


def _pretrain(x: Tensor) -> Tensor:
    return pretrain_loss(x, denominator=3)[0]


@pytest.mark.parametrize("loss", [_value, _pretrain])
def test_gradients_equal_finite_differences(loss: Callable[[Tensor], Tensor]) -> None:
    at = (OLD + torch.tensor([0.05, 0.9, -0.9, -0.1])).requires_grad_()
    assert torch.autograd.gradcheck(loss, at, eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_value_loss_does_not_depend_on_the_number_of_micro_batches(cut: int) -> None:
    values = torch.linspace(-1, 1, 12, dtype=torch.float64)
    returns = values.flip(0)
    whole = value_loss(values, returns, denominator=12)[0]
    parts = zip(values.chunk(cut), returns.chunk(cut), strict=True)
    pieces = torch.stack([value_loss(v, r, denominator=12)[0] for v, r in parts])
    assert pieces.sum().item() == pytest.approx(whole.item())


def test_a_denominator_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="denominator"):
        pretrain_loss(torch.zeros(0), denominator=0)
