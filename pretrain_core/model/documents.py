"""Where the documents of a packed batch begin and end."""

from dataclasses import dataclass
from itertools import groupby, pairwise

import torch
from torch import Tensor


class DocumentsError(ValueError):
    """`cu_seqlens` does not describe the tokens it came with."""


@dataclass(frozen=True)
class Documents:
    """The documents of one packed batch, worked out once per forward pass for all layers."""

    lengths: tuple[int, ...]
    runs: tuple[tuple[int, int], ...]
    """(count, length) of consecutive documents of equal length: each run is one dense batch."""
    longest: int
    cu_seqlens: Tensor
    """`[documents + 1]` int32, on the device of the tokens."""
    positions: Tensor
    """`[tokens]` int64, restarting at 0 in each document."""

    @classmethod
    def of(cls, cu_seqlens: Tensor, tokens: int, device: torch.device) -> "Documents":
        """Read `cu_seqlens` `[documents + 1]` over `tokens` tokens; a CPU one avoids a device sync.

        Raises DocumentsError unless it rises strictly from 0 to `tokens`.
        """
        bounds: list[int] = cu_seqlens.tolist()
        if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != tokens:
            ends = f"[{bounds[0]}, …, {bounds[-1]}]" if bounds else "[]"
            raise DocumentsError(f"cu_seqlens is {ends}; it must go from 0 to {tokens} tokens")
        lengths = tuple(end - start for start, end in pairwise(bounds))
        for index, length in enumerate(lengths):
            if length < 1:
                raise DocumentsError(
                    f"document {index} has {length} tokens (cu_seqlens {bounds[index]} to "
                    f"{bounds[index + 1]}); leave empty documents out of the packing"
                )
        starts = torch.tensor(bounds[:-1]).repeat_interleave(torch.tensor(lengths))
        return cls(
            lengths=lengths,
            runs=tuple((len(list(group)), length) for length, group in groupby(lengths)),
            longest=max(lengths),
            cu_seqlens=cu_seqlens.to(device, torch.int32),
            positions=(torch.arange(tokens) - starts).to(device),
        )
