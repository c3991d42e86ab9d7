"""Each token's share of the loss of a whole optimiser step."""

from typing import Literal

import torch
from torch import Tensor

from actors.batch import Sequences, Totals

Aggregation = Literal["token_mean", "sequence_mean"]


def token_shares(batch: Sequences, totals: Totals, aggregation: Aggregation) -> Tensor:
    """Shares fp32 `[actions]`; they add up to 1 over all micro-batches and ranks of a step.

    "token_mean": all actions weigh the same. "sequence_mean": all sequences do, and the actions
    within each.
    """
    if aggregation == "token_mean":
        return torch.full((batch.actions,), 1 / totals.actions)
    # Running counts: segment sums without a loop.
    counts = torch.cat([torch.zeros(1, dtype=torch.int64), batch.is_action.cumsum(0)])
    actions = counts[batch.cu_seqlens].diff()
    return torch.repeat_interleave(1 / (totals.sequences * actions.float()), actions)
