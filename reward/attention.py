"""Attention of packed sequences, as a function that any Hugging Face decoder can be told to use.

Sequences lie one after the other, without padding; each attends to itself alone. CUDA has a kernel
for that. Elsewhere sequences of similar length form small dense batches inside the attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pretrain_core.errors import InputError
from pretrain_core.model.attention import varlen_attention
from pretrain_core.model.documents import Documents

PACKED = "cool_rlhf_packed"
SIMILAR = 0.8  # shortest to longest sequence of one dense batch
ALWAYS_SIMILAR = 16  # tokens of difference that never part two sequences
# Tokens up to which a CPU attends in fp32: its fused kernel's backward in bf16 takes up to five
# times as long there. Longer sequences gain more from bf16 than that loses.
FLOAT_UP_TO = 256
USE_INSTEAD = "use a plain causal decoder (Llama, Qwen, Mistral, …)"
NOT_SUPPORTED = ("softcap", "s_aux", "position_bias")


class PackedAttentionError(InputError):
    """A network whose attention cannot be computed on packed sequences."""


@dataclass
class Sequences:
    """The sequences of one packed batch; made once per forward pass, read by every layer."""

    documents: Documents
    ends: Tensor
    """`[sequences]`: place of each last token."""
    places: Tensor
    """`[tokens]`: where each token stands in the dense batches."""
    batches: tuple[tuple[int, int], ...]
    """(sequences, padded length) of each dense batch."""
    layers: int = 0
    """Attention layers that have read this."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Sequences":
        """The layout of sequences of these lengths (all above 0), in this order."""
        bounds = torch.tensor([0, *accumulate(lengths)])
        documents = Documents.of(bounds, int(bounds[-1]), device)
        starts = torch.empty(len(lengths), dtype=torch.long)
        batches, offset = [], 0
        for rows in _similar(lengths):
            padded = lengths[rows[0]]
            starts[rows] = offset + padded * torch.arange(len(rows))
            batches.append((len(rows), padded))
            offset += len(rows) * padded
        spread = starts.repeat_interleave(torch.tensor(lengths)).to(device)
        ends = (bounds[1:] - 1).to(device)
        return cls(documents, ends, spread + documents.positions, tuple(batches))

    @property
    def dense_tokens(self) -> int:
        """Tokens of the dense batches, padding included."""
        return sum(count * length for count, length in self.batches)


def _similar(lengths: Sequence[int]) -> list[list[int]]:
    """Sequences by falling length, cut where one is much shorter than the first of its group."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[groups[-1][0]] if groups else 0
        if longest and lengths[index] >= min(SIMILAR * longest, longest - ALWAYS_SIMILAR):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def register() -> None:
    """Make `attn_implementation=PACKED` known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(PACKED, packed_attention_forward)
    AttentionMaskInterface.register(PACKED, sdpa_mask)  # for padded inputs, which still work


def packed_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sequences: Sequences | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each sequence; transformers' signature, `[1, heads, tokens, d]` in.

    Returns `[1, tokens, heads, d]`. Without `sequences` it is transformers' own `sdpa`. Dropout is
    not applied: reward models train without. Raises PackedAttentionError for attention that is
    more than causal and windowed (soft caps, sinks, position biases).
    """
    if sequences is None:
        if attention_mask is not None and attention_mask.numel() == 0:
            raise PackedAttentionError(
                f"{type(module).__name__} does not hand packed sequences on to its attention: "
                f"{USE_INSTEAD}"
            )
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    unknown = [name for name in NOT_SUPPORTED if kwargs.get(name) is not None]
    if unknown or not getattr(module, "is_causal", True):
        raise PackedAttentionError(
            f"{type(module).__name__} has attention with {', '.join(unknown) or 'no order'}, "
            f"which cannot be packed: {USE_INSTEAD}"
        )
    sequences.layers += 1
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window if (sliding_window or 0) < sequences.documents.longest else None
    # Rotated queries and keys are in fp32 under autocast, values are not.
    q, k, v = (part[0].transpose(0, 1).to(value.dtype) for part in (query, key, value))
    if v.is_cuda and v.dtype in (torch.float16, torch.bfloat16):
        attended = varlen_attention(q, k, v, sequences.documents, scale, window)
    else:
        attended = _in_dense_batches(q, k, v, sequences, scale, window)
    return attended[None], None


def _in_dense_batches(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequences: Sequences,
    scale: float,
    window: int | None,
) -> Tensor:
    """`[tokens, heads, d]` and twice `[tokens, kv_heads, d]` → `[tokens, heads, d]`."""
    size, places = sequences.dense_tokens, sequences.places
    areas = [count * length for count, length in sequences.batches]
    spread = [
        torch.split(Spread.apply(part, places, size), areas)  # type: ignore[no-untyped-call]
        for part in (query, key, value)
    ]
    outputs = []
    for (count, length), *parts in zip(sequences.batches, *spread, strict=True):
        q, k, v = (torch.unflatten(part, 0, (count, length)) for part in parts)
        if length <= FLOAT_UP_TO and not query.is_cuda:
            with torch.autocast("cpu", enabled=False):  # it would bring them back to bf16
                attended = _fused(q.float(), k.float(), v.float(), scale, window).to(query.dtype)
        else:
            attended = _fused(q, k, v, scale, window)
        outputs.append(attended.flatten(0, 1))
    collected: Tensor = Collect.apply(torch.cat(outputs), places)  # type: ignore[no-untyped-call]
    return collected


def _fused(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
    """The fused kernel; `[n, length, heads, d]`, query heads of a group side by side."""
    mask = None if window is None else _seen(query.shape[1], window, query.device)
    attended = scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=True,
    )
    return attended.transpose(1, 2)


def _seen(length: int, window: int | None, device: torch.device) -> Tensor:
    """Mask `[length, length]`: itself and what came before, `window` tokens in all."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return seen if window is None else seen.triu(1 - window)


class Spread(torch.autograd.Function):
    """Rows into a larger zeroed tensor; each place is taken once, so the gradient is a gather."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor, size: int) -> Tensor:
        """`[tokens, …]` → `[size, …]`."""
        ctx.save_for_backward(places)
        return rows.new_zeros(size, *rows.shape[1:]).index_copy_(0, places, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The reverse."""
        (places,) = ctx.saved_tensors
        return gradients[0].index_select(0, places), None, None


class Collect(torch.autograd.Function):
    """The rows at distinct places; autograd's own index_select would add up row by row."""

    @staticmethod
    def forward(ctx: Any, spread: Tensor, places: Tensor) -> Tensor:
        """`[size, …]` → `[tokens, …]`."""
        ctx.save_for_backward(places)
        ctx.size = len(spread)
        return spread.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The reverse."""
        (places,) = ctx.saved_tensors
        rows = gradients[0]
        return rows.new_zeros(ctx.size, *rows.shape[1:]).index_copy_(0, places, rows), None
