"""Rewards against hand-made numbers (facts F7); the scale of scores, and that it can go on."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.batch import Sequences
from cool_rlhf.ppo.algorithm import ActionGrid, AlgorithmSettings, KLControl, ScoreScale
from cool_rlhf.ppo.algorithm.shaping import Moments, token_rewards


def packed(*masks: list[bool]) -> Sequences:
    return Sequences.pack([(list(range(1, len(mask) + 1)), mask) for mask in masks])


def test_score_sits_on_the_last_action_and_kl_on_every_action() -> None:
    grid = ActionGrid.of(packed([False, True, True], [False, True, False, True, False]))
    logprobs = torch.arange(8, dtype=torch.float32)
    reference = torch.zeros(8)
    scores = torch.tensor([1.0, 2.0])
    rewards = token_rewards(scores, logprobs, reference, grid, kl_coef=0.1)
    expected = [0.0, -0.1, -0.2 + 1.0, 0.0, -0.4, 0.0, -0.6 + 2.0, 0.0]
    assert torch.allclose(rewards, torch.tensor(expected))
    squared = token_rewards(scores, logprobs, reference, grid, kl_coef=0.1, kl="k2")
    expected = [0.0, -0.05, -0.2 + 1.0, 0.0, -0.8, 0.0, -1.8 + 2.0, 0.0]
    assert torch.allclose(squared, torch.tensor(expected))


def test_scores_are_cut_first_and_then_measured_against_all_so_far() -> None:
    scale = ScoreScale(AlgorithmSettings(score_clip=5.0, score_scale="all"))
    first = scale(torch.tensor([-9.0, 1.0]), ["a", "b"])
    assert first.tolist() == pytest.approx([-1.0, 1.0])
    # Now −5, 1, 3: mean −1/3, variance (35 − 1/3)/3.
    second = scale(torch.tensor([3.0]), ["a"])
    assert second.item() == pytest.approx((3 + 1 / 3) / (((35 - 1 / 3) / 3) ** 0.5))


def test_each_condition_may_have_its_own_scale() -> None:
    scores, conditions = torch.tensor([0.0, 2.0, 100.0, 104.0]), ["a", "a", "b", "b"]
    own = ScoreScale(AlgorithmSettings(score_scale="condition"))(scores, conditions)
    assert own.tolist() == pytest.approx([-1.0, 1.0, -1.0, 1.0])
    untouched = ScoreScale(AlgorithmSettings())(scores, conditions)
    assert torch.equal(untouched, scores)


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5), min_size=1, max_size=6))
def test_moments_of_batches_are_those_of_the_whole(batches: list[list[float]]) -> None:
    moments = Moments()
    for batch in batches:
        moments.add(torch.tensor(batch, dtype=torch.float64))
    whole = torch.tensor([x for batch in batches for x in batch], dtype=torch.float64)
    assert moments.mean == pytest.approx(whole.mean().item(), abs=1e-6)
    assert moments.deviation == pytest.approx(whole.std(correction=0).item(), abs=1e-6)


def test_the_scale_and_the_coefficient_go_on_where_they_were_saved() -> None:
    settings = AlgorithmSettings(score_scale="condition", kl_target=6.0, kl_horizon=100)
    scales = [ScoreScale(settings) for _ in range(2)]
    controls = [KLControl(settings) for _ in range(2)]
    scales[0](torch.tensor([1.0, 4.0, -2.0]), ["a", "b", "a"])
    controls[0].update(9.0, 10)
    scales[1].restore(json.loads(json.dumps(scales[0].state())))
    controls[1].restore(json.loads(json.dumps(controls[0].state())))
    again = [scale(torch.tensor([0.5, 1.5]), ["b", "a"]).tolist() for scale in scales]
    assert again[0] == again[1]
    assert controls[0].coefficient == controls[1].coefficient == pytest.approx(0.01 * 1.02)


def test_the_coefficient_follows_the_relative_error_within_limits() -> None:
    control = KLControl(AlgorithmSettings(kl_coef=0.1, kl_target=5.0, kl_horizon=1000))
    control.update(5.5, 100)
    assert control.coefficient == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    before = control.coefficient
    control.update(0.0, 100)
    assert control.coefficient == pytest.approx(before * (1 - 0.2 * 0.1))
    fixed = KLControl(AlgorithmSettings(kl_coef=0.1))
    fixed.update(50.0, 100)
    assert fixed.coefficient == 0.1


def test_a_fixed_coefficient_is_that_of_the_settings_after_a_resume() -> None:
    control = KLControl(AlgorithmSettings(kl_coef=0.2))
    control.restore({"coefficient": 0.1})
    assert control.coefficient == 0.2
