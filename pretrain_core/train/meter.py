"""Speed: one definition of tokens per second, model FLOPs and MFU."""

import time
from collections.abc import Iterable

import torch

from pretrain_core.model import ModelConfig


def model_flops(config: ModelConfig, lengths: Iterable[int]) -> float:
    """FLOPs of one training step over documents (or pieces) of these lengths.

    Forward plus backward = 3 × forward, recomputation not counted; 2 per weight and token, the
    embedding look-up none; attention counts the causal half only: 2 · l² · hidden per layer
    forward, hence Σ l² of the real documents (half of the count behind facts A1's figures).
    """
    tokens = squares = 0
    for length in lengths:
        tokens += length
        squares += length * length
    norms = (2 * config.layers + 1) * config.hidden
    embedding = 0 if config.tied else config.vocab_size * config.hidden
    weights = config.parameters - norms - embedding
    return 6.0 * weights * tokens + 6.0 * config.layers * config.hidden * squares


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a plain matrix product here and now, the best of a few: the peak of the MFU."""
    side = 2048 if device.type == "cpu" else 8192
    left = torch.randn(side, side, device=device).to(dtype)
    right = torch.randn(side, side, device=device).to(dtype)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        product = left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
        del product
    return 2.0 * side**3 / best


class Meter:
    """Counts the work between two readings; `peak` is FLOP/s of all ranks together."""

    def __init__(self, config: ModelConfig, peak: float) -> None:
        self.config = config
        self.peak = peak
        self.flops = 0.0
        self.tokens = 0
        self._started = time.perf_counter()

    def add(self, lengths: list[int]) -> None:
        """Count the pieces of one global step."""
        self.tokens += sum(lengths)
        self.flops += model_flops(self.config, lengths)

    def read(self) -> dict[str, float]:
        """`perf/throughput` (tokens/s), `perf/tflops` and `perf/mfu` since the last reading."""
        now = time.perf_counter()
        seconds = max(now - self._started, 1e-9)
        rates = {
            "perf/throughput": self.tokens / seconds,
            "perf/tflops": self.flops / seconds / 1e12,
            "perf/mfu": self.flops / seconds / self.peak,
        }
        self.flops, self.tokens, self._started = 0.0, 0, now
        return rates
