"""One optimiser step over micro-batches, with the gate that keeps NaN out of the weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.engines.protocol import Engine, NonFiniteError
from actors.forward import IDLE
from actors.losses import Stats, add_stats


@dataclass(frozen=True)
class MicroBatch:
    """A part of the step's loss, its denominators global, and the samples it comes from."""

    ids: tuple[str, ...]
    loss: Callable[[], tuple[Tensor, Stats]]


def optimiser_step(engine: Engine, micro_batches: Sequence[MicroBatch]) -> tuple[Stats, float]:
    """Sum the gradients of all micro-batches of all ranks, then step; (stats, gradient norm).

    Raises NonFiniteError on every rank, with the sample ids, before the weights change.
    """
    parts: list[Stats] = []
    bad: list[str] = []
    rounds = engine.agree(len(micro_batches))
    for index in range(rounds):
        if index < len(micro_batches):
            loss, stats = micro_batches[index].loss()
            parts.append(stats)
            if not torch.isfinite(loss):
                bad += micro_batches[index].ids
        else:
            loss = engine.outputs(IDLE).sum() * 0.0
        last = index == rounds - 1
        # A NaN gradient reaches every rank with the sum: all of them refuse the step together.
        engine.backward(loss * torch.nan if last and bad else loss, last=last)
    try:
        return add_stats(parts), engine.step()
    except NonFiniteError as error:
        guilty = engine.gather_ids(tuple(bad))
        if guilty:
            raise NonFiniteError(f"non-finite loss in samples {_some(guilty)}", guilty) from error
        every = engine.gather_ids(tuple(name for part in micro_batches for name in part.ids))
        raise NonFiniteError(
            f"{error}; losses were finite; samples {_some(every)}", every
        ) from error


def _some(ids: tuple[str, ...]) -> str:
    return ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
