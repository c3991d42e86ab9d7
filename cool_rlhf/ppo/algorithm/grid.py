"""The action tokens of packed sequences as rows."""

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
