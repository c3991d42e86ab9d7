"""What a worker asks of a training engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor

from actors.batch import Sequences
from pretrain_core.errors import RunFailed
from pretrain_core.precision import Dtype
from pretrain_core.settings import Settings


class OptimSettings(Settings):
    """AdamW with a constant learning rate."""

    lr: float = Field(default=1e-6, gt=0, description="learning rate")
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(
        default=0.0, ge=0, description="of matrices; norms and biases have none"
    )
    grad_clip: float = Field(default=1.0, gt=0, description="largest norm of the whole gradient")


class EngineSettings(Settings):
    """How one model is trained."""

    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=0,
        description="what ZeRO shards: nothing, optimiser state, gradients too, weights too",
    )
    offload: Literal["none", "optimiser", "weights"] = Field(
        default="none",
        description="what lives in host memory: optimiser state and the update (from zero_stage 1"
        " on), weights too (zero_stage 3)",
    )
    dtype: Dtype = Field(
        default="auto",
        description="of matrix products (autocast); weights and optimiser stay fp32",
    )

    @model_validator(mode="after")
    def _sharded_enough(self) -> "EngineSettings":
        least = {"none": 0, "optimiser": 1, "weights": 3}[self.offload]
        if self.zero_stage < least:
            raise ValueError(
                f"offload {self.offload} needs zero_stage {least} at least, it is {self.zero_stage}"
            )
        return self


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is not a number, found before the weights changed."""

    def __init__(self, message: str, sample_ids: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.sample_ids = sample_ids


class TrainingStateError(RunFailed):
    """A folder from which a training cannot go on; names what is missing or differs."""


class Engine(Protocol):
    """One model with its optimiser on this rank and its peers.

    `products`: the format of matrix products. `partitioned`: no rank has the whole weights, so
    that every forward and every look at them is something that all ranks do together. `adapted`:
    only adapters over a frozen base learn.
    """

    products: torch.dtype
    partitioned: bool
    adapted: bool

    def outputs(self, batch: Sequences) -> Tensor:
        """Head outputs one position before each action token, `[actions, …]`.

        Gradients flow unless the caller switched them off. Where weights are partitioned every
        rank must call it equally often.
        """

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of `loss`; ranks are *summed* when `last` closes the step.

        Every rank must call it equally often.
        """

    def step(self) -> float:
        """Clip, update, clear gradients; returns the global gradient norm before clipping.

        Raises NonFiniteError on every rank, weights untouched and gradients cleared, when the
        norm is not finite.
        """

    def agree(self, count: int) -> int:
        """The largest `count` over all ranks."""

    def gather_ids(self, ids: tuple[str, ...]) -> tuple[str, ...]:
        """The ids of all ranks, in rank order."""

    def save_state(self, folder: Path) -> None:
        """Write weights, optimiser and random state; every rank calls it."""

    def load_state(self, folder: Path) -> None:
        """Bring back `save_state`, of any number of ranks; every rank calls it."""

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Full fp32 weights under Hugging Face names; tied ones once.

        Where they are partitioned every rank calls it, and goes through to the end.
        """
