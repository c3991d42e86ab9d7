"""Whole pairs into batches of a token budget; nothing is padded on the way."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pretrain_core.draws import rng
from pretrain_core.errors import InputError


class BatchError(InputError):
    """Pairs that cannot be laid out as asked."""


def plan_batches(
    lengths: Sequence[tuple[int, int]], budget: int, seed: int, epoch: int = 0, multiple: int = 1
) -> list[list[int]]:
    """Indices of pairs per batch: each pair once, all its tokens within `budget` (report §4.2.1).

    Deterministic in (seed, epoch). Empty batches at the end make their number a multiple of
    `multiple`, the ranks. Raises BatchError for no pairs, or a pair above the budget.
    """
    tokens = np.array([sum(pair) for pair in lengths], dtype=np.int64)
    if len(tokens) == 0:
        raise BatchError("no pairs to make batches of")
    if tokens.max() > budget:
        worst = int(tokens.argmax())
        raise BatchError(
            f"pair {worst} takes {int(tokens[worst])} tokens, the batch budget is {budget}: raise "
            "batch_tokens or lower max_length"
        )
    order = rng(seed, "reward/order", epoch).permutation(len(tokens))
    batches = fill([int(i) for i in order], [int(tokens[i]) for i in order], budget)
    return batches + [[] for _ in range(-len(batches) % multiple)]


def fill(indices: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut a sequence into runs of at most `budget` tokens (at least one member each)."""
    runs: list[list[int]] = []
    room = 0
    for index, length in zip(indices, lengths, strict=True):
        if length > room:
            runs.append([])
            room = budget
        runs[-1].append(index)
        room -= length
    return runs


def pad_right(inputs: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """Token matrix [rows, longest] for libraries that want one, `pad_id` on the right."""
    longest = max(len(tokens) for tokens in inputs)
    padded = torch.full((len(inputs), longest), pad_id, dtype=torch.long)
    for row, tokens in enumerate(inputs):
        padded[row, : len(tokens)] = torch.tensor(tokens)
    return padded
