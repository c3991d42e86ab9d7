"""Small helpers shared by the tests."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping

import torch

from pretrain_core.runs import StopSignal

# What vLLM needs on a machine without a GPU; every process that loads it starts with these.
ENGINE_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


def free_port() -> int:
    """A port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_python(
    code: str, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter and return its outcome, output captured as text."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
        check=False,
    )


def randomise(model: torch.nn.Module, std: float = 0.2, seed: int = 0) -> None:
    """Give every matrix weights large enough that logits differ visibly between tokens."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, std, generator=generator)


class StopAfter(StopSignal):
    """A stop that is requested after so many looks at it (one per step)."""

    def __init__(self, steps: int) -> None:
        super().__init__("again")
        self.steps = steps

    @property
    def requested(self) -> bool:
        self.steps -= 1
        return self.steps < 0

    @requested.setter
    def requested(self, value: bool) -> None:
        pass
