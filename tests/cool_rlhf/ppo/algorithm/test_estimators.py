"""Estimators and the action grid against hand-made numbers (facts F7)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.batch import Sequences
from cool_rlhf.ppo.algorithm import ActionGrid, AlgorithmSettings, Signals, estimate


def packed(*masks: list[bool]) -> Sequences:
    return Sequences.pack([(list(range(1, len(mask) + 1)), mask) for mask in masks])


def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    grid: ActionGrid,
    gamma: float,
    lam: float,
    after: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns."""
    settings = AlgorithmSettings(gamma=gamma, lam=lam)
    groups = torch.arange(len(grid.valid))
    found = estimate(Signals(rewards, grid, groups, values, after), settings)
    assert found.returns is not None
    return found.advantages, found.returns


def without_critic(
    estimator: str, rewards: torch.Tensor, grid: ActionGrid, groups: list[int], **changes: float
) -> torch.Tensor:
    settings = AlgorithmSettings.model_validate({"estimator": estimator, **changes})
    found = estimate(Signals(rewards, grid, torch.tensor(groups)), settings)
    assert found.returns is None
    return found.advantages


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


def test_a_reply_that_was_cut_goes_on_with_the_value_of_where_it_was_cut() -> None:
    grid = ActionGrid.of(packed([False, True, True], [False, True]))
    rewards, values = torch.tensor([0.0, 1.0, 2.0, 0.0, 3.0]), torch.zeros(5)
    after = torch.tensor([10.0, 0.0])
    _, returns = gae(rewards, values, grid, gamma=0.5, lam=1.0, after=after)
    assert returns.tolist() == pytest.approx([0.0, 1.0 + 0.5 * 7.0, 2.0 + 0.5 * 10.0, 0.0, 3.0])


# Four replies of one to three actions to two prompts; whole rewards 1, 3 and 5, 11.
GRID = ActionGrid.of(
    packed([False, True], [False, True, True], [False, True, False, True], [False, True])
)
REWARDS = torch.tensor([0.0, 1.0, 0.0, 1.0, 2.0, 0.0, 2.0, 0.0, 3.0, 0.0, 11.0])
GROUPS = [7, 7, 2, 2]


def per_reply(advantages: torch.Tensor) -> list[float]:
    """The one advantage that all actions of a reply have."""
    rows = GRID.gather(advantages)
    firsts = rows[:, :1]
    assert torch.equal(torch.where(GRID.valid, firsts, 0.0), rows)
    return firsts.flatten().tolist()


def test_rloo_is_the_reward_over_the_mean_of_the_others() -> None:
    advantages = without_critic("rloo", REWARDS, GRID, GROUPS)
    assert per_reply(advantages) == pytest.approx([-2.0, 2.0, -6.0, 6.0])


def test_grpo_is_the_z_score_in_the_group() -> None:
    advantages = without_critic("grpo", REWARDS, GRID, GROUPS)
    assert per_reply(advantages) == pytest.approx([-(0.5**0.5), 0.5**0.5] * 2, abs=1e-5)
    same = REWARDS.clone()
    same[1] = 3.0
    assert per_reply(without_critic("grpo", same, GRID, GROUPS))[:2] == [0.0, 0.0]


def test_groups_are_of_any_order_and_size() -> None:
    mixed = without_critic("rloo", REWARDS, GRID, [1, 2, 1, 2])
    assert per_reply(mixed) == pytest.approx([-4.0, -8.0, 4.0, 8.0])
    three = ActionGrid.of(packed([False, True], [False, True], [False, True]))
    rewards = torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0, 6.0])
    found = without_critic("rloo", rewards, three, [0, 0, 0])
    assert found[[1, 3, 5]].tolist() == pytest.approx([1 - 4.0, 2 - 3.5, 6 - 1.5])


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_a_reply_without_another_to_compare_with_is_refused(estimator: str) -> None:
    with pytest.raises(ValueError, match="at least 2 to each prompt"):
        without_critic(estimator, REWARDS, GRID, [1, 1, 2, 3])


def test_reinforce_plus_plus_normalises_rewards_to_come() -> None:
    advantages = without_critic("reinforce++", REWARDS, GRID, GROUPS, gamma=0.5)
    to_come = torch.tensor([1.0, 1 + 0.5 * 2, 2.0, 2 + 0.5 * 3, 3.0, 11.0])
    expected = (to_come - to_come.mean()) / to_come.std(correction=0)
    assert advantages[[1, 3, 4, 6, 8, 10]].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert advantages[[0, 2, 5, 7, 9]].abs().sum() == 0


def test_advantages_are_normalised_over_all_actions_on_request() -> None:
    plain = without_critic("rloo", REWARDS, GRID, GROUPS)
    found = without_critic("rloo", REWARDS, GRID, GROUPS, normalise_advantages=True)
    actions = GRID.gather(plain)[GRID.valid]
    expected = (actions - actions.mean()) / actions.std(correction=0)
    assert GRID.gather(found)[GRID.valid].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_gae_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="critic's values"):
        estimate(Signals(REWARDS, GRID, torch.tensor(GROUPS)), AlgorithmSettings())
