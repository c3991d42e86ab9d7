"""Estimators of advantages, one registered function each, on packed tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cool_rlhf.ppo.algorithm.grid import ActionGrid
from cool_rlhf.ppo.algorithm.settings import AlgorithmSettings, EstimatorName

_LEAST_DEVIATION = 1e-6


@dataclass(frozen=True)
class Signals:
    """What an estimator sees: `rewards` [tokens]; `groups` [n], equal for replies to one prompt.

    With a critic, `values` [tokens] of the states before the actions, and `after` [n] of those
    after the last one: 0 where the reply had ended.
    """

    rewards: Tensor
    grid: ActionGrid
    groups: Tensor
    values: Tensor | None = None
    after: Tensor | None = None


@dataclass(frozen=True)
class Estimate:
    """Advantages [tokens], and the returns [tokens] that a critic learns, None without one."""

    advantages: Tensor
    returns: Tensor | None = None


Estimator = Callable[[Signals, AlgorithmSettings], Estimate]


def gae(signals: Signals, settings: AlgorithmSettings) -> Estimate:
    """Generalised advantage estimation (arXiv 1506.02438 eq. 16).

    δ_t = r_t + γ·V_{t+1} − V_t, A_t = δ_t + γλ·A_{t+1}, R_t = A_t + V_t.
    """
    if signals.values is None:
        raise ValueError("gae needs a critic's values")
    grid, gamma = signals.grid, settings.gamma
    reward, value = grid.gather(signals.rewards), grid.gather(signals.values)
    following = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], dim=1)
    if signals.after is not None:
        rows = torch.arange(len(following))
        following[rows, grid.valid.sum(1) - 1] = signals.after.to(following.dtype)
    delta = reward + gamma * following - value
    advantage = _discounted_sums(delta, gamma * settings.lam)
    return Estimate(
        grid.scatter(advantage, signals.values), grid.scatter(advantage + value, signals.values)
    )


def grpo(signals: Signals, settings: AlgorithmSettings) -> Estimate:
    """Every action of a reply: its whole reward's z-score in its group (arXiv 2402.03300).

    A group whose rewards are all the same has advantage 0.
    """
    total = _totals(signals)
    mean, count = _group_means(total, signals.groups)
    squares, _ = _group_means((total - mean).square(), signals.groups)
    deviation = (squares * count / (count - 1)).sqrt()
    return _spread(signals, (total - mean) / (deviation + _LEAST_DEVIATION))


def rloo(signals: Signals, settings: AlgorithmSettings) -> Estimate:
    """Every action: the reply's reward over the mean of the others (arXiv 2402.14740)."""
    total = _totals(signals)
    mean, count = _group_means(total, signals.groups)
    return _spread(signals, (total - mean) * count / (count - 1))


def reinforce_plus_plus(signals: Signals, settings: AlgorithmSettings) -> Estimate:
    """Discounted rewards to come, normalised over the batch (arXiv 2501.03262)."""
    reward = signals.grid.gather(signals.rewards)
    to_come = _discounted_sums(reward, settings.gamma)
    advantages = signals.grid.scatter(to_come, signals.rewards)
    return Estimate(_normalised(advantages, signals.grid))


ESTIMATORS: Mapping[EstimatorName, Estimator] = {
    "gae": gae,
    "grpo": grpo,
    "rloo": rloo,
    "reinforce++": reinforce_plus_plus,
}


def estimate(signals: Signals, settings: AlgorithmSettings) -> Estimate:
    """By the estimator that the settings name.

    Raises ValueError for a reply that has no other to be compared with.
    """
    if settings.in_groups and (_group_means(signals.groups, signals.groups)[1] < 2).any():
        raise ValueError(f"{settings.estimator} compares replies: at least 2 to each prompt")
    found = ESTIMATORS[settings.estimator](signals, settings)
    if settings.normalise_advantages:
        return replace(found, advantages=_normalised(found.advantages, signals.grid))
    return found


def _discounted_sums(rows: Tensor, discount: float) -> Tensor:
    """S_t = x_t + discount·S_{t+1} of each row `[n, actions]`."""
    sums = torch.zeros_like(rows)
    running = torch.zeros_like(rows[:, 0])
    for step in reversed(range(rows.shape[1])):
        # Columns right of a row's last action are zero, so nothing leaks into shorter rows.
        running = rows[:, step] + discount * running
        sums[:, step] = running
    return sums


def _totals(signals: Signals) -> Tensor:
    """The whole reward of each reply, `[n]`."""
    return signals.grid.gather(signals.rewards).sum(1)


def _group_means(values: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each one's group, and how many it has, `[n]` each."""
    _, index, counts = torch.unique(groups, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(counts), dtype=torch.float64).index_add(0, index, values.double())
    return (sums / counts)[index].to(values.dtype), counts[index]


def _spread(signals: Signals, values: Tensor) -> Estimate:
    """One value [n] at all actions of a reply."""
    grid = signals.grid
    rows = values.unsqueeze(1).expand(grid.valid.shape)
    return Estimate(grid.scatter(rows, signals.rewards))


def _normalised(advantages: Tensor, grid: ActionGrid) -> Tensor:
    values = grid.gather(advantages)
    actions = values[grid.valid]
    deviation = actions.std(correction=0) + _LEAST_DEVIATION
    return grid.scatter((values - actions.mean()) / deviation, advantages)
