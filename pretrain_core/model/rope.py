"""Rotary positions (Su et al., arXiv 2104.09864), in the half-split order of Llama."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of every token's angles, `[tokens, head_dim / 2]` fp32."""

    cosine: Tensor
    sine: Tensor

    @classmethod
    def at(cls, positions: Tensor, head_dim: int, base: float) -> "Rotary":
        """Angles `position · base^(−2i / head_dim)` for `positions` `[tokens]`."""
        exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
        frequencies = 1.0 / base ** (exponents / head_dim)
        angles = torch.outer(positions.float(), frequencies)
        return cls(angles.cos(), angles.sin())

    def rotate(self, heads: Tensor) -> Tensor:
        """Rotate `heads` `[tokens, ..., head_dim]` by its tokens' angles; dtype is kept."""
        shape = (heads.shape[0], *(1,) * (heads.dim() - 2), -1)
        cosine = self.cosine.to(heads.dtype).view(shape)
        sine = self.sine.to(heads.dtype).view(shape)
        rotated: Tensor = _Rotation.apply(heads, cosine, sine)  # type: ignore[no-untyped-call]
        return rotated


class _Rotation(torch.autograd.Function):
    """Its gradient is the rotation by the opposite angle: half the work of autograd's own."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _rotate(heads, cosine, sine)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _rotate(gradient, cosine, -sine), None, None


def _rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
