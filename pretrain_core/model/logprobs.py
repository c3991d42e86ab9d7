"""The one definition of a log-probability and of an entropy, in fp32 and bounded memory."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = {"cpu": 1 << 20}
CHUNK_ELEMENTS_ELSEWHERE = 1 << 26
"""Logits turned to fp32 at a time: 4 MiB, which a CPU's cache holds; 256 MiB on accelerators."""


def logprobs_of(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax(logits)[target] for `logits` `[..., vocab]`, `targets` `[...]` → fp32 `[...]`.

    Memory beyond the logits is one chunk of rows; the backward pass recomputes the softmax.
    Raises ValueError when the shapes do not belong together.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} do not match: "
            "targets must have the shape of the logits without their last dimension"
        )
    rows, wanted = logits.flatten(0, -2), targets.flatten()
    flat: Tensor = _TargetLogProbability.apply(rows, wanted)  # type: ignore[no-untyped-call]
    return flat.view(targets.shape)


def entropy_of(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(logits), `[..., vocab]` → fp32 `[...]`."""
    rows = logits.flatten(0, -2)
    parts = [_entropy(chunk.float()) for chunk in torch.split(rows, _rows_per_chunk(rows))]
    return torch.cat(parts).view(logits.shape[:-1])


def shifted(logits: Tensor, tokens: Tensor, cu_seqlens: Tensor) -> Tensor:
    """log p(token t | its document before t), `[tokens, vocab]`, `[tokens]` → fp32 `[tokens]`.

    Aligned with `tokens`; the first token of each document has nothing before it and gets 0.
    """
    # Rolled, not sliced: the gradient of a slice is one more zero-filled copy of the logits.
    aligned = logprobs_of(logits, tokens.roll(-1)).roll(1)
    first = cu_seqlens[:-1].to(tokens.device, torch.int64)
    return aligned.index_fill(0, first, 0.0)


def _rows_per_chunk(logits: Tensor) -> int:
    elements = CHUNK_ELEMENTS.get(logits.device.type, CHUNK_ELEMENTS_ELSEWHERE)
    return max(1, elements // logits.shape[-1])


def _entropy(logits: Tensor) -> Tensor:
    logs = logits.log_softmax(-1)
    probabilities = logs.exp()
    # A word of probability 0 adds nothing; 0 · -inf would be NaN.
    return -(probabilities * logs.masked_fill(probabilities == 0.0, 0.0)).sum(-1)


class _TargetLogProbability(torch.autograd.Function):
    """Keeps the logits alone, instead of an fp32 log-softmax of their size."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(logits, targets)
        rows = _rows_per_chunk(logits)
        parts = [
            chunk.float().log_softmax(-1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
            for chunk, wanted in zip(
                torch.split(logits, rows), torch.split(targets, rows), strict=True
            )
        ]
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, targets = ctx.saved_tensors
        result = torch.empty_like(logits)
        rows = _rows_per_chunk(logits)
        for start in range(0, len(logits), rows):
            part = slice(start, start + rows)
            weights = gradient[part].unsqueeze(-1)
            softmax = logits[part].float().softmax(-1).mul_(-weights)
            result[part] = softmax.scatter_add_(-1, targets[part].unsqueeze(-1), weights)
        return result, None
