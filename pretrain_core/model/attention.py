"""Grouped-query attention with the fused, interleaved Wqkv of InternLM2 (report §2.2)."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pretrain_core.model.config import ModelConfig
from pretrain_core.model.documents import Documents
from pretrain_core.model.rope import Rotary


class AttentionFunction(Protocol):
    """Causal attention of queries to the keys of their own document."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, documents: Documents) -> Tensor:
        """`[tokens, heads, d]`, twice `[tokens, kv_heads, d]` → `[tokens, heads, d]`."""
        ...


def packed_attention(query: Tensor, key: Tensor, value: Tensor, documents: Documents) -> Tensor:
    """Causal attention inside each document of a packed batch, without a dense mask.

    Shapes: query `[tokens, heads, d]`, key and value `[tokens, kv_heads, d]`; result as query.
    """
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        return varlen_attention(query, key, value, documents)
    return _per_run(query, key, value, documents)


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents,
    scale: float | None = None,
    window: int | None = None,
) -> Tensor:
    """`packed_attention` by the fused CUDA kernel (fp16 or bf16).

    `scale` of the products, 1/√d if None; `window`: each token sees that many, itself included.
    """
    # Imported here: the kernel exists for CUDA only.
    from torch.nn.attention.varlen import varlen_attn

    bounds, longest = documents.cu_seqlens, documents.longest
    result = varlen_attn(
        query,
        key,
        value,
        bounds,
        bounds,
        longest,
        longest,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=True,
    )
    assert isinstance(result, Tensor)
    return result


def _per_run(query: Tensor, key: Tensor, value: Tensor, documents: Documents) -> Tensor:
    # split, not slices: the gradient of n slices is n zero-filled copies of the whole batch.
    sizes = [count * length for count, length in documents.runs]
    pieces = zip(
        documents.runs, *(torch.split(part, sizes) for part in (query, key, value)), strict=True
    )
    outputs = [_dense(q, k, v, *run) for run, q, k, v in pieces]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _dense(query: Tensor, key: Tensor, value: Tensor, count: int, length: int) -> Tensor:
    """One dense causal batch of `count` documents of equal `length`."""
    query, key, value = (
        torch.unflatten(part, 0, (count, length)).transpose(1, 2) for part in (query, key, value)
    )
    attended = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return attended.transpose(1, 2).flatten(0, 1)


class Attention(nn.Module):
    """Attention of one block; Wqkv's rows are `[q_0 … q_{g-1}, k, v]` per key/value head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.parts_per_group = config.queries_per_group + 2
        rows = config.kv_heads * self.parts_per_group * self.head_dim
        self.wqkv = nn.Linear(config.hidden, rows, bias=False)
        self.wo = nn.Linear(config.hidden, config.hidden, bias=False)
        # An attribute, so that sequence parallelism can put its exchange around it from outside.
        self.attend: AttentionFunction = packed_attention

    def forward(self, hidden: Tensor, rotary: Rotary, documents: Documents) -> Tensor:
        """`[tokens, hidden]` → `[tokens, hidden]`."""
        # The number of groups is left open: under tensor parallelism a rank holds some of them.
        parts = (-1, self.parts_per_group, self.head_dim)
        fused = torch.unflatten(self.wqkv(hidden), -1, parts)
        rotated = rotary.rotate(fused[:, :, :-1])
        query = rotated[:, :, :-1].flatten(1, 2)
        attended = self.attend(query, rotated[:, :, -1], fused[:, :, -1], documents)
        projected: Tensor = self.wo(attended.flatten(1))
        return projected
