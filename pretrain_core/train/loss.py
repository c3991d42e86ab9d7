"""Summed next-token loss over the vocabulary, in chunks that never hold all logits."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pretrain_core.data.loader import IGNORED
from pretrain_core.model import Transformer

# Fastest on two cores at vocabulary 4,096: 256 rows, 4 MiB of fp32, stay in the cache.
_ELEMENTS_PER_CHUNK = {"cpu": 1 << 20, "cuda": 1 << 27}
_ROWS_AT_LEAST = 64


def vocabulary_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Σ −log softmax(hidden · weightᵀ)[target] over targets that are not -100, as fp32 scalar.

    Shapes: hidden `[tokens, width]`, weight `[vocab, width]`, targets `[tokens]`. Under autocast
    the products are bf16; softmax, sums and the weight's gradient are fp32.
    """
    device = hidden.device.type
    keep = targets != IGNORED
    if not bool(keep.all()):
        hidden, targets = hidden[keep], targets[keep]
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    summed: Tensor = _ChunkedLoss.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return summed


class _ChunkedLoss(torch.autograd.Function):
    """Computes the gradients beside the loss: each chunk's logits live once."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        elements = _ELEMENTS_PER_CHUNK.get(hidden.device.type, 1 << 24)
        rows = max(_ROWS_AT_LEAST, elements // len(weight))
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        needed = ctx.needs_input_grad
        hidden_gradient = torch.empty_like(hidden) if needed[0] else None
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if needed[1] else None
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            target = targets[part].unsqueeze(-1)
            logits = (hidden[part] @ weight.t()).float()
            normaliser = logits.logsumexp(-1, keepdim=True)
            total += (normaliser - logits.gather(-1, target)).sum()
            if hidden_gradient is None and weight_gradient is None:
                continue
            gradient = logits.sub_(normaliser).exp_()
            gradient.scatter_add_(-1, target, torch.full_like(normaliser, -1.0))
            gradient = gradient.to(hidden.dtype)
            if hidden_gradient is not None:
                torch.mm(gradient, weight, out=hidden_gradient[part])
            if weight_gradient is not None:
                weight_gradient += gradient.t() @ hidden[part]
        ctx.weight_dtype = weight.dtype
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        for_hidden, for_weight = ctx.saved_tensors
        if for_hidden is not None:
            for_hidden = for_hidden * gradient.to(for_hidden.dtype)
        if for_weight is not None:
            for_weight = (for_weight * gradient).to(ctx.weight_dtype)
        return for_hidden, for_weight, None


class NextTokenLoss(nn.Module):
    """A model together with its summed loss, so that sharding sees one forward pass."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, cu_seqlens: Tensor, targets: Tensor) -> Tensor:
        """Summed loss of packed tokens; all shapes as in `Batch`."""
        hidden = self.model.hidden(tokens, cu_seqlens)
        return vocabulary_loss(hidden, self.model.output.weight, targets)
