"""Losses against values by hand and finite differences; independence of the cut (fault 10)."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from actors.losses import (
    add_stats,
    policy_loss,
    pretrain_loss,
    value_loss,
    with_explained_variance,
)

OLD = torch.tensor([-1.0, -2.0, -0.5, -1.0], dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0, 1.0, -1.0, 2.0], dtype=torch.float64)


def test_policy_loss_by_hand() -> None:
    ratios = torch.tensor([1.0, 1.5, 0.5, 0.9], dtype=torch.float64)
    loss, stats = policy_loss(OLD + ratios.log(), OLD, ADVANTAGES, denominator=10)
    # 1: −1; 2: clipped to −1.2; 3: −A·0.5 = 0.5, clipped −A·0.8 = 0.8; 4: −2·0.9
    assert loss.item() == pytest.approx((-1 - 1.2 + 0.8 - 1.8) / 10)
    assert stats["loss/policy_avg"] == pytest.approx(loss.item())
    assert stats["policy/clipfrac_avg"] == pytest.approx(2 / 10)
    assert stats["policy/ratio_avg"] == pytest.approx(3.9 / 10)
    assert stats["policy/ratio_max"] == pytest.approx(1.5)
    squares = math.log(1.5) ** 2 + math.log(0.5) ** 2 + math.log(0.9) ** 2
    assert stats["policy/approxkl_avg"] == pytest.approx(0.5 * squares / 10)


def test_on_policy_gradient_is_minus_advantage() -> None:
    logprobs = OLD.clone().requires_grad_()
    policy_loss(logprobs, OLD, ADVANTAGES, denominator=4)[0].backward()
    assert logprobs.grad is not None
    assert torch.allclose(logprobs.grad, -ADVANTAGES / 4)


def test_a_wider_clip_range_changes_the_loss() -> None:
    ratios = torch.tensor([1.0, 1.5, 0.5, 0.9], dtype=torch.float64)
    new = OLD + ratios.log()
    narrow, wide = (
        policy_loss(new, OLD, ADVANTAGES, denominator=1, clip_range=clip)[0] for clip in (0.2, 0.9)
    )
    assert narrow > wide


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


def _policy(x: Tensor) -> Tensor:
    return policy_loss(x, OLD, ADVANTAGES, denominator=3)[0]


def _value(x: Tensor) -> Tensor:
    return value_loss(x, ADVANTAGES, denominator=3)[0]


def _pretrain(x: Tensor) -> Tensor:
    return pretrain_loss(x, denominator=3)[0]


@pytest.mark.parametrize("loss", [_policy, _value, _pretrain])
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


def test_empty_parts_and_bad_denominators() -> None:
    nothing = torch.zeros(0)
    loss, stats = policy_loss(nothing, nothing, nothing, denominator=5)
    assert loss.item() == 0.0
    assert stats["policy/ratio_max"] == 0.0
    with pytest.raises(ValueError, match="denominator"):
        pretrain_loss(nothing, denominator=0)
