"""Whole pairs into batches of a token budget, and the padding at a model's door."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pretrain_core.draws import rng
from pretrain_core.errors import InputError

WINDOW_BATCHES = 32  # pairs are sorted by length only inside windows of about so many batches


class BatchError(InputError):
    """Pairs that cannot be laid out as asked."""


def plan_batches(
    lengths: Sequence[tuple[int, int]], budget: int, seed: int, epoch: int = 0, multiple: int = 1
) -> list[list[int]]:
    """Indices of pairs per batch: each pair once, 2 × pairs × longest ≤ `budget` padded tokens.

    Deterministic in (seed, epoch). Empty batches at the end make their number a multiple of
    `multiple`, the ranks. Raises BatchError for no pairs, or a pair above the budget.
    """
    longest = np.array([max(pair) for pair in lengths], dtype=np.int64)
    if len(longest) == 0:
        raise BatchError("no pairs to make batches of")
    if 2 * longest.max() > budget:
        worst = int(longest.argmax())
        raise BatchError(
            f"pair {worst} takes {2 * int(longest[worst])} padded tokens, the batch budget is "
            f"{budget}: raise batch_tokens or lower max_length"
        )
    draw = rng(seed, "reward/order", epoch)
    order = draw.permutation(len(longest))
    pairs_per_window = max(1, WINDOW_BATCHES * budget // int(2 * longest.mean() + 1))
    batches: list[list[int]] = []
    for start in range(0, len(order), pairs_per_window):
        window = order[start : start + pairs_per_window]
        by_length = window[np.argsort(longest[window], kind="stable")]
        batches += fill([int(i) for i in by_length], [int(longest[i]) for i in by_length], budget)
    shuffled = [batches[i] for i in draw.permutation(len(batches))]
    return shuffled + [[] for _ in range(-len(batches) % multiple)]


def fill(
    indices: Sequence[int], lengths: Sequence[int], budget: int, rows_each: int = 2
) -> list[list[int]]:
    """Cut a sequence of rising lengths into runs of rows × longest ≤ budget (at least one each)."""
    runs: list[list[int]] = []
    for index, length in zip(indices, lengths, strict=True):
        if runs and rows_each * (len(runs[-1]) + 1) * length <= budget:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def pad_right(inputs: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """Token matrix [rows, longest], short rows filled with `pad_id` on the right."""
    longest = max(len(tokens) for tokens in inputs)
    padded = torch.full((len(inputs), longest), pad_id, dtype=torch.long)
    for row, tokens in enumerate(inputs):
        padded[row, : len(tokens)] = torch.tensor(tokens)
    return padded
