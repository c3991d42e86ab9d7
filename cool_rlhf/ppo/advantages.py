"""From scores to per-token rewards, advantages and returns, on packed tensors."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from actors.batch import Sequences


@dataclass(frozen=True)
class ActionGrid:
    """The action tokens of packed sequences as rows: `index` and `valid` [n, actions].

    `index` points into `tokens`. Environment and prompt tokens drop out, so that the step after an
    action is the next *action* of the same sequence, also across turns.
    """

    index: Tensor
    valid: Tensor

    @classmethod
    def of(cls, sequences: Sequences) -> "ActionGrid":
        """Raises ValueError when a sequence has no action token (an empty reply)."""
        boundaries = sequences.cu_seqlens.tolist()
        rows = [
            torch.nonzero(sequences.is_action[start:end]).flatten() + start
            for start, end in pairwise(boundaries)
        ]
        empty = [position for position, row in enumerate(rows) if len(row) == 0]
        if empty:
            raise ValueError(f"sequences {empty} have no action token: nothing to give a reward to")
        index = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
        return cls(index=index.clamp(min=0), valid=index >= 0)

    def gather(self, packed: Tensor) -> Tensor:
        """[tokens] → [n, actions], zero where not valid."""
        return torch.where(self.valid, packed[self.index], torch.zeros((), dtype=packed.dtype))

    def scatter(self, grid: Tensor, like: Tensor) -> Tensor:
        """[n, actions] → [tokens], zero at tokens that are no actions."""
        packed = torch.zeros_like(like)
        packed[self.index[self.valid]] = grid[self.valid].to(packed.dtype)
        return packed

    @property
    def last(self) -> Tensor:
        """[n]: position in `tokens` of each sequence's last action."""
        rows = torch.arange(len(self.index))
        return self.index[rows, self.valid.sum(1) - 1]


def token_rewards(
    scores: Tensor, logprobs: Tensor, reference_logprobs: Tensor, grid: ActionGrid, kl_coef: float
) -> Tensor:
    """Score [n] at the last action token, −β·(log π − log π_ref) at each action token (facts F7).

    Returns [tokens] fp32, zero at tokens that are no actions.
    """
    kl = grid.scatter(grid.gather(logprobs - reference_logprobs), logprobs)
    rewards = -kl_coef * kl
    rewards[grid.last] += scores.to(rewards.dtype)
    return rewards


def gae(
    rewards: Tensor, values: Tensor, grid: ActionGrid, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation; the value after the last action is 0.

    δ_t = r_t + γ·V_{t+1} − V_t, A_t = δ_t + γλ·A_{t+1}, R_t = A_t + V_t. Takes and returns
    packed [tokens] (advantages, returns).
    """
    reward, value = grid.gather(rewards), grid.gather(values)
    following = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], dim=1)
    delta = reward + gamma * following - value
    advantage = torch.zeros_like(delta)
    running = torch.zeros_like(delta[:, 0])
    for step in reversed(range(delta.shape[1])):
        # Columns right of a row's last action are zero, so nothing leaks into shorter rows.
        running = delta[:, step] + gamma * lam * running
        advantage[:, step] = running
    return grid.scatter(advantage, values), grid.scatter(advantage + value, values)
