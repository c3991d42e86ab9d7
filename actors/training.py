"""Optimiser steps over micro-batches, with the gate that keeps NaN out of the weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.batch import Sequences
from actors.engines.protocol import Engine, NonFiniteError
from actors.forward import IDLE, Outputs
from actors.losses import Stats, add_stats


@dataclass(frozen=True)
class MicroBatch:
    """A part of the step's loss, its denominators global, and the samples it comes from."""

    ids: tuple[str, ...]
    loss: Callable[[], tuple[Tensor, Stats]]


class KeptForwards:
    """Forward passes with their graphs: made for the experience of an iteration, used once more by
    the update, where no weight changes between the two."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._iteration: int | None = None
        self._outputs: dict[bytes, Tensor] = {}

    def keeping(self, iteration: int | None) -> Outputs:
        """The engine's outputs, to be kept as those of `iteration`; None: not to be kept."""
        if iteration is None:
            return self._engine.outputs
        if iteration != self._iteration:
            self.clear()
        self._iteration = iteration
        return self._keep

    def _keep(self, batch: Sequences) -> Tensor:
        with torch.enable_grad():
            found = self._outputs[_key(batch)] = self._engine.outputs(batch)
        return found.detach()

    def outputs(self, batch: Sequences) -> Tensor:
        """Those kept of this very micro-batch, given out once, or fresh ones."""
        kept = self._outputs.pop(_key(batch), None)
        return self._engine.outputs(batch) if kept is None else kept

    def __len__(self) -> int:
        return len(self._outputs)

    def clear(self) -> None:
        """Weights have changed, or other samples took the place of these."""
        self._outputs.clear()


def _key(batch: Sequences) -> bytes:
    parts = (batch.tokens, batch.cu_seqlens, batch.is_action)
    return b"|".join(part.numpy().tobytes() for part in parts)


class Gradient:
    """The gradient of one optimiser step after another, each from one or more batches."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.kept = KeptForwards(engine)
        self._clear()

    def _clear(self) -> None:
        self._stats: list[Stats] = []
        self._seen: list[str] = []
        self._bad: list[str] = []

    def add(self, micro_batches: Sequence[MicroBatch], *, last: bool = False) -> None:
        """Add the gradients of all micro-batches; `last` sums them over ranks."""
        rounds = self._engine.agree(len(micro_batches))
        for index in range(rounds):
            if index < len(micro_batches):
                loss, stats = micro_batches[index].loss()
                self._stats.append(stats)
                self._seen += micro_batches[index].ids
                if not torch.isfinite(loss):
                    self._bad += micro_batches[index].ids
            else:
                loss = self._engine.outputs(IDLE).sum() * 0.0
            closing = last and index == rounds - 1
            # A NaN gradient reaches every rank with the sum: all of them refuse the step together.
            self._engine.backward(loss * torch.nan if closing and self._bad else loss, last=closing)

    def step(self, micro_batches: Sequence[MicroBatch]) -> tuple[Stats, float]:
        """Add the last ones and step: (stats of the whole step, gradient norm).

        Raises NonFiniteError on every rank, with the sample ids, before the weights change.
        """
        self.add(micro_batches, last=True)
        stats, bad, seen = add_stats(self._stats), self._bad, self._seen
        self._clear()
        self.kept.clear()
        try:
            return stats, self._engine.step()
        except NonFiniteError as error:
            guilty = self._engine.gather_ids(tuple(bad))
            if guilty:
                raise NonFiniteError(
                    f"non-finite loss in samples {_some(guilty)}", guilty
                ) from error
            every = self._engine.gather_ids(tuple(seen))
            raise NonFiniteError(
                f"{error}; losses were finite; samples {_some(every)}", every
            ) from error


def _some(ids: tuple[str, ...]) -> str:
    return ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
