"""The format of matrix products: bf16 where the device multiplies it, else fp32."""

import logging
from typing import Literal

import torch

logger = logging.getLogger(__name__)

Dtype = Literal["auto", "bfloat16", "float32"]


def multiplies_bf16(device: str | torch.device) -> bool:
    """Whether a device multiplies bf16 at least as fast as fp32.

    An x86 processor without AVX-512, which most laptops are, goes through bf16 number by number.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def products_of(asked: Dtype, device: str | torch.device) -> torch.dtype:
    """The format that is asked for; of `auto`, the faster one on this device."""
    if asked == "auto":
        return torch.bfloat16 if multiplies_bf16(device) else torch.float32
    if asked == "bfloat16":
        warn_of_slow_bf16(device)
        return torch.bfloat16
    return torch.float32


def warn_of_slow_bf16(device: str | torch.device) -> None:
    """Say so where bf16 products slow a device down."""
    if not multiplies_bf16(device):
        logger.warning(
            "bf16 products on this %s may take a hundred times as long as fp32 ones: choose fp32",
            torch.device(device).type,
        )
