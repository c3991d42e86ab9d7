"""The policy's losses against values by hand and finite differences."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from actors.losses import Actions, PolicyLossSettings, policy_loss
from actors.losses.policy import POLICY_LOSSES

OLD = torch.tensor([-1.0, -2.0, -0.5, -1.0], dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0, 1.0, -1.0, 2.0], dtype=torch.float64)
RATIOS = torch.tensor([1.0, 1.5, 0.5, 0.9], dtype=torch.float64)
SHARES = torch.full((4,), 0.1, dtype=torch.float64)
# Of π_old / π_behaviour: none, small, beyond a cap of 2, just below it.
WEIGHTS = torch.tensor([1.0, 0.5, 4.0, 1.9], dtype=torch.float64)


def actions(logprobs: Tensor | None = None, advantages: Tensor = ADVANTAGES) -> Actions:
    return Actions(
        logprobs=OLD + RATIOS.log() if logprobs is None else logprobs,
        old=OLD,
        advantages=advantages,
        behaviour=OLD - WEIGHTS.log(),
        reference=OLD - 0.25,
    )


def of(name: Any, **changes: Any) -> PolicyLossSettings:
    return PolicyLossSettings(name=name, **changes)


def test_clip_by_hand() -> None:
    loss, stats = policy_loss(actions(), SHARES)
    # 1: −1; 2: clipped to −1.2; 3: −A·0.5 = 0.5, clipped −A·0.8 = 0.8; 4: −2·0.9
    assert loss.item() == pytest.approx((-1 - 1.2 + 0.8 - 1.8) / 10)
    assert stats["loss/policy_avg"] == pytest.approx(loss.item())
    assert stats["policy/clipfrac_avg"] == pytest.approx(2 / 10)
    assert stats["policy/ratio_avg"] == pytest.approx(3.9 / 10)
    assert stats["policy/ratio_max"] == pytest.approx(1.5)
    squares = math.log(1.5) ** 2 + math.log(0.5) ** 2 + math.log(0.9) ** 2
    assert stats["policy/approxkl_avg"] == pytest.approx(0.5 * squares / 10)
    assert "loss/kl_avg" not in stats
    assert "policy/is_weight_avg" not in stats


def test_the_upper_side_of_the_clip_may_have_its_own_range() -> None:
    wider = policy_loss(actions(), SHARES, of("clip", clip_range_high=0.28))[0]
    assert wider.item() == pytest.approx((-1 - 1.28 + 0.8 - 1.8) / 10)


def test_dual_clip_bounds_the_loss_of_bad_actions_only() -> None:
    ratios = torch.tensor([5.0, 5.0, 2.0], dtype=torch.float64)
    advantages = torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)
    given = Actions(ratios.log(), torch.zeros(3, dtype=torch.float64), advantages)
    loss, stats = policy_loss(given, SHARES[:3], of("dual_clip", dual_clip=3.0))
    assert loss.item() == pytest.approx((3.0 - 1.2 + 2.0) / 10)
    assert stats["policy/clipfrac_avg"] == pytest.approx(2 / 10)
    single = policy_loss(given, SHARES[:3])[0]
    assert single.item() == pytest.approx((5.0 - 1.2 + 2.0) / 10)


def test_truncated_weights_are_cut_and_stale_ones_dropped_where_decoupled() -> None:
    clipped = torch.tensor([-1.0, -1.2, 0.8, -1.8], dtype=torch.float64)
    cut, stats = policy_loss(actions(), SHARES, of("truncated_is"))
    assert cut.item() == pytest.approx((torch.tensor([1.0, 0.5, 2.0, 1.9]) * clipped).sum() / 10)
    assert stats["policy/is_weight_avg"] == pytest.approx(7.4 / 10)
    assert stats["policy/is_weight_max"] == pytest.approx(4.0)
    assert stats["policy/is_beyond_cap_avg"] == pytest.approx(1 / 10)
    dropped, stats = policy_loss(actions(), SHARES, of("decoupled"))
    kept = torch.tensor([1.0, 0.5, 0.0, 1.9])
    assert dropped.item() == pytest.approx((kept * clipped).sum().item() / 10)
    # The dropped token is not counted as clipped.
    assert stats["policy/clipfrac_avg"] == pytest.approx(1 / 10)


def test_importance_weights_are_constants_of_the_gradient() -> None:
    logprobs = OLD.clone().requires_grad_()
    policy_loss(actions(logprobs), SHARES, of("truncated_is", weight_cap=10.0))[0].backward()
    assert logprobs.grad is not None
    assert torch.allclose(logprobs.grad, -WEIGHTS * ADVANTAGES / 10)


def test_on_policy_gradient_is_minus_advantage() -> None:
    logprobs = OLD.clone().requires_grad_()
    policy_loss(actions(logprobs), SHARES)[0].backward()
    assert logprobs.grad is not None
    assert torch.allclose(logprobs.grad, -ADVANTAGES / 10)


@pytest.mark.parametrize(("kl", "value"), [("k2", 0.5 * 0.25**2), ("k3", math.exp(-0.25) - 0.75)])
def test_kl_in_the_loss_by_hand(kl: Any, value: float) -> None:
    none = torch.zeros(4, dtype=torch.float64)
    loss, stats = policy_loss(actions(OLD, none), SHARES, of("clip", kl_coef=0.3, kl=kl))
    assert stats["loss/kl_avg"] == pytest.approx(4 * value / 10)
    assert loss.item() == pytest.approx(0.3 * 4 * value / 10)


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_gradients_equal_finite_differences(name: str) -> None:
    at = (OLD + torch.tensor([0.05, 0.9, -0.9, -0.1])).requires_grad_()
    settings = of(name, kl_coef=0.1)
    assert torch.autograd.gradcheck(
        lambda x: policy_loss(actions(x), SHARES, settings)[0], at, eps=1e-6, atol=1e-7
    )


def test_no_actions_have_no_loss() -> None:
    nothing = torch.zeros(0)
    loss, stats = policy_loss(Actions(nothing, nothing, nothing), nothing)
    assert loss.item() == 0.0
    assert stats["policy/ratio_max"] == 0.0


def test_what_a_loss_needs_must_be_there() -> None:
    bare = Actions(OLD, OLD, ADVANTAGES)
    with pytest.raises(ValueError, match="distribution sampled from"):
        policy_loss(bare, SHARES, of("decoupled"))
    with pytest.raises(ValueError, match="reference's log-probs"):
        policy_loss(bare, SHARES, of("clip", kl_coef=0.1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dual_clip": 4.0}, "dual_clip has no effect with name clip"),
        ({"name": "dual_clip", "weight_cap": 5.0}, "weight_cap has no effect with name dual_clip"),
        ({"kl": "k3"}, "kl has no effect with name clip and kl_coef 0"),
        ({"kl": "k1", "kl_coef": 0.1}, "gradient of zero on average: take k2"),
    ],
)
def test_settings_without_effect_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PolicyLossSettings(**changes)
