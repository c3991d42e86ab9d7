"""Rewards, GAE and the action grid against hand-made numbers (facts F7)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.batch import Sequences
from cool_rlhf.ppo.advantages import ActionGrid, gae, token_rewards


def packed(*masks: list[bool]) -> Sequences:
    return Sequences.pack([(list(range(1, len(mask) + 1)), mask) for mask in masks])


def test_gae_equals_the_vector_of_the_report_notes() -> None:
    sequences = packed([False, True, True, True])
    grid = ActionGrid.of(sequences)
    rewards = torch.tensor([0.0, -0.001, 0.002, 0.5])
    values = torch.tensor([9.0, 0.1, 0.2, 0.3])
    advantages, returns = gae(rewards, values, grid, gamma=1.0, lam=0.99)
    assert torch.allclose(advantages, torch.tensor([0.0, 0.396, 0.3, 0.2]), atol=2e-3)
    # 0.099 + 0.99·(0.102 + 0.99·0.2): the same by hand, to the last digit.
    assert advantages[1].item() == pytest.approx(0.099 + 0.99 * (0.102 + 0.99 * 0.2), abs=1e-6)
    assert torch.allclose(returns[1:], advantages[1:] + values[1:])


def test_score_sits_on_the_last_action_and_kl_on_every_action() -> None:
    sequences = packed([False, True, True], [False, True, False, True, False])
    grid = ActionGrid.of(sequences)
    logprobs = torch.arange(8, dtype=torch.float32)
    reference = torch.zeros(8)
    rewards = token_rewards(torch.tensor([1.0, 2.0]), logprobs, reference, grid, kl_coef=0.1)
    expected = [0.0, -0.1, -0.2 + 1.0, 0.0, -0.4, 0.0, -0.6 + 2.0, 0.0]
    assert torch.allclose(rewards, torch.tensor(expected))


def test_environment_tokens_are_skipped_between_turns() -> None:
    sequences = packed([False, True, False, False, True])
    grid = ActionGrid.of(sequences)
    rewards = torch.tensor([0.0, 0.0, 7.0, 7.0, 1.0])
    values = torch.tensor([0.0, 0.5, 7.0, 7.0, 0.25])
    advantages, _ = gae(rewards, values, grid, gamma=1.0, lam=1.0)
    assert torch.allclose(advantages, torch.tensor([0.0, 0.5, 0.0, 0.0, 0.75]))


def test_an_empty_reply_is_refused_with_its_position() -> None:
    with pytest.raises(ValueError, match=r"\[1\]"):
        ActionGrid.of(packed([False, True], [False, False]))


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.floats(0.5, 1.0),
    st.floats(0.0, 1.0),
)
def test_gae_of_a_batch_equals_gae_of_each_sequence(
    lengths: list[int], gamma: float, lam: float
) -> None:
    masks = [[False] + [True] * length for length in lengths]
    generator = torch.Generator().manual_seed(sum(lengths))
    total = sum(len(mask) for mask in masks)
    rewards, values = torch.randn(2, total, generator=generator)
    advantages, _ = gae(rewards, values, ActionGrid.of(packed(*masks)), gamma, lam)
    start = 0
    for mask in masks:
        part = slice(start, start + len(mask))
        running, expected = 0.0, [0.0] * len(mask)
        for step in reversed(range(1, len(mask))):
            following = values[part][step + 1].item() if step + 1 < len(mask) else 0.0
            delta = rewards[part][step].item() + gamma * following - values[part][step].item()
            running = delta + gamma * lam * running
            expected[step] = running
        assert torch.allclose(advantages[part], torch.tensor(expected), atol=1e-4)
        start += len(mask)


def test_with_lambda_one_the_return_is_the_sum_of_rewards_to_come() -> None:
    grid = ActionGrid.of(packed([False, True, True, True]))
    rewards = torch.tensor([0.0, 1.0, 2.0, 4.0])
    _, returns = gae(rewards, torch.tensor([0.0, 3.0, -1.0, 5.0]), grid, gamma=1.0, lam=1.0)
    assert torch.allclose(returns, torch.tensor([0.0, 7.0, 6.0, 4.0]))
