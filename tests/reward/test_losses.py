import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reward.losses import (
    bradley_terry_loss,
    clamped_barrier_penalty,
    focal_ranking_loss,
    log_barrier_penalty,
    reward_loss,
)
from reward.settings import LossSettings

# facts F3: chosen, rejected, P, factor, ranking, penalty(chosen), penalty(rejected), loss
VECTORS = [
    (0.0, 0.0, 0.5, 1.0, 0.6931, -3.2189, -3.2189, 0.6288),
    (1.0, 0.0, 0.7311, 0.2893, 0.0906, -3.1781, -3.2189, 0.0267),
    (0.0, 1.0, 0.2689, 1.0, 1.3133, -3.2189, -3.1781, 1.2493),
    (3.0, -3.0, 0.9975, 0.0, 0.0, -2.7726, -2.7726, -0.0555),
    (4.9, -4.9, 0.9999, 0.0, 0.0, 0.0101, 0.0101, 0.0002),
]


def scores(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


@pytest.mark.parametrize("vector", VECTORS)
def test_the_vectors_of_the_facts(vector: tuple[float, ...]) -> None:
    chosen, rejected, p, factor, ranking, pen_c, pen_r, loss = vector
    c, r = scores(chosen), scores(rejected)
    found = focal_ranking_loss(c, r)
    assert found.item() == pytest.approx(ranking, abs=5.1e-5)
    assert (found / bradley_terry_loss(c, r)).item() == pytest.approx(factor, abs=5.1e-5)
    # The table cuts the probability off instead of rounding it.
    assert torch.sigmoid(c - r).item() == pytest.approx(p, abs=1e-4)
    assert log_barrier_penalty(c).item() == pytest.approx(pen_c, abs=5.1e-5)
    assert log_barrier_penalty(r).item() == pytest.approx(pen_r, abs=5.1e-5)
    assert reward_loss(c, r).loss.item() == pytest.approx(loss, abs=5.1e-5)


@pytest.mark.parametrize(
    ("p", "factor"), [(0.4, 1.0), (0.6, 0.64), (0.75, 0.25), (0.9, 0.04), (0.99, 0.0004)]
)
def test_the_focal_factor(p: float, factor: float) -> None:
    difference = scores(math.log(p / (1 - p)))
    zero = torch.zeros(1)
    ratio = focal_ranking_loss(difference, zero) / bradley_terry_loss(difference, zero)
    assert ratio.item() == pytest.approx(factor, rel=1e-4)


@pytest.mark.parametrize(
    ("x", "slope"), [(1.0, 2 / 24), (3.0, 0.375), (4.0, 8 / 9), (4.9, 9.899), (-3.0, -0.375)]
)
def test_the_gradient_of_the_barrier(x: float, slope: float) -> None:
    point = scores(x).requires_grad_()
    log_barrier_penalty(point).sum().backward()
    assert point.grad is not None
    assert point.grad.item() == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("x", [4.96, 5.0, 7.0, 100.0, -5.0, -40.0])
def test_a_score_outside_the_band_is_pulled_back(x: float) -> None:
    """Fault 7: a barrier on clamped scores has no gradient exactly where it is needed."""
    point = scores(x).requires_grad_()
    log_barrier_penalty(point).sum().backward()
    assert point.grad is not None
    assert point.grad.item() == pytest.approx(math.copysign(19.8995, x), rel=1e-4)

    clamped = scores(x).requires_grad_()
    inside = clamped.clamp(-4.95, 4.95)
    (-(torch.log(5 + inside) + torch.log(5 - inside))).sum().backward()
    assert clamped.grad is not None
    assert clamped.grad.item() == 0.0


def test_the_continuation_is_once_differentiable_at_the_seam() -> None:
    x = torch.tensor([4.95 - 1e-6, 4.95 + 1e-6], dtype=torch.float32)
    value = log_barrier_penalty(x)
    assert value[0].item() == pytest.approx(value[1].item(), abs=1e-4)
    assert log_barrier_penalty(scores(5.0)).item() == pytest.approx(
        log_barrier_penalty(scores(4.95)).item() + 0.05 * 19.8995, rel=1e-4
    )


def test_escaped_scores_come_back_by_gradient_descent() -> None:
    escaped = scores(9.0, -12.0).requires_grad_()
    optimiser = torch.optim.SGD([escaped], lr=1.0)
    for _ in range(60):
        optimiser.zero_grad()
        (0.02 * log_barrier_penalty(escaped)).sum().backward()
        optimiser.step()
    assert bool((escaped.abs() < 5).all())


finite = st.floats(-8, 8, allow_nan=False, width=32)


@given(finite, finite, st.floats(0, 3), st.floats(-1, 1))
def test_gradients_agree_with_finite_differences(
    chosen: float, rejected: float, gamma: float, margin: float
) -> None:
    step = 1e-2
    near_a_kink = abs(chosen - rejected - margin) < 2 * step or any(
        abs(abs(x) - 4.95) < 2 * step for x in (chosen, rejected)
    )
    if near_a_kink:
        return
    settings = LossSettings(gamma=gamma)

    def loss(c: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        return reward_loss(c, r, settings, scores(margin)).loss

    c, r = scores(chosen).requires_grad_(), scores(rejected).requires_grad_()
    loss(c, r).backward()
    assert c.grad is not None
    assert r.grad is not None
    for grad, dc, dr in ((c.grad, step, 0.0), (r.grad, 0.0, step)):
        up = loss(scores(chosen + dc), scores(rejected + dr)).item()
        down = loss(scores(chosen - dc), scores(rejected - dr)).item()
        assert grad.item() == pytest.approx((up - down) / (2 * step), rel=2e-2, abs=2e-3)


@given(finite, finite)
def test_the_loss_is_finite_and_falls_with_the_margin(a: float, b: float) -> None:
    right = focal_ranking_loss(scores(max(a, b)), scores(min(a, b))).item()
    wrong = focal_ranking_loss(scores(min(a, b)), scores(max(a, b))).item()
    assert 0 <= right <= wrong
    assert math.isfinite(wrong)


def test_bf16_scores_are_computed_in_fp32() -> None:
    c, r = scores(1.2, -0.3, 4.9), scores(0.7, 0.4, -4.9)
    half = reward_loss(c.bfloat16(), r.bfloat16())
    full = reward_loss(c.bfloat16().float(), r.bfloat16().float())
    assert half.per_pair.dtype == torch.float32
    assert torch.equal(half.per_pair, full.per_pair)


def test_a_margin_shifts_the_difference() -> None:
    c, r, margin = scores(2.0, 0.0), scores(0.5, 0.0), scores(1.0, 0.5)
    assert torch.allclose(
        focal_ranking_loss(c, r, margin=margin), focal_ranking_loss(c - margin, r)
    )


def test_bradley_terry_is_the_focal_loss_without_focus() -> None:
    c, r = scores(1.0, -2.0, 3.0), scores(0.0, 1.0, 1.0)
    settings = LossSettings(ranking="bradley_terry", penalty_weight=0.0)
    assert torch.allclose(reward_loss(c, r, settings).per_pair, bradley_terry_loss(c, r))
    assert torch.allclose(focal_ranking_loss(c, r, gamma=0), bradley_terry_loss(c, r))


def test_confident_pairs_keep_a_gradient() -> None:
    """1 − 2·max(0, P − ½) cancels to zero in fp32 for large margins; the factor here does not."""
    c = scores(18.0).requires_grad_()
    focal_ranking_loss(c, scores(0.0)).sum().backward()
    assert c.grad is not None
    assert c.grad.item() < 0


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        focal_ranking_loss(scores(1.0, 2.0), scores(1.0))
    with pytest.raises(ValueError, match="linear_beyond"):
        log_barrier_penalty(scores(0.0), bound=5.0, linear_beyond=5.0)
    with pytest.raises(ValidationError, match="must be below bound"):
        LossSettings(bound=4.0)


def test_a_clamped_barrier_has_no_gradient_where_ours_pulls_back() -> None:
    """Fault 7: the score of 8 must come back into the band."""
    for penalty, expected in ((clamped_barrier_penalty, 0.0), (log_barrier_penalty, 19.9)):
        x = scores(8.0).requires_grad_()
        penalty(x).backward()
        assert x.grad is not None
        assert x.grad.item() == pytest.approx(expected, abs=0.05)
    inside = torch.linspace(-4.9, 4.9, 99)
    assert torch.allclose(clamped_barrier_penalty(inside), log_barrier_penalty(inside))
    assert clamped_barrier_penalty(scores(99.0)).item() == pytest.approx(4.605, abs=1e-3)


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [("barrier", -2.9957), ("clamped_barrier", -2.9957), ("l2", 4.5), ("none", 0.0)],
)
def test_every_penalty_is_a_setting(penalty: str, expected: float) -> None:
    settings = LossSettings(penalty=penalty, penalty_weight=0.5)  # type: ignore[arg-type]
    loss = reward_loss(scores(3.0), scores(0.0), settings)
    assert loss.penalty.item() == pytest.approx(expected, abs=1e-3)
    assert loss.loss.item() == pytest.approx(loss.ranking.item() + 0.5 * expected, abs=1e-3)
