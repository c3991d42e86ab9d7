"""Forward passes without gradients, in fixed micro-batches: a pure function of the batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.batch import Sequences, micro_batches
from actors.engines.protocol import Engine
from pretrain_core.model.logprobs import entropy_of, logprobs_of

Outputs = Callable[[Sequences], Tensor]
"""Head outputs one position before each action token: Sequences → `[actions, …]`."""


@dataclass(frozen=True)
class Logprobs:
    """log p of each action token given what precedes it, fp32 `[tokens]`; 0 elsewhere."""

    logprobs: Tensor


@dataclass(frozen=True)
class LogprobResult(Logprobs):
    """With the entropy (nats) of the distribution that each action token was drawn from.

    `raw`: log-probs at temperature 1; None where they are the same.
    """

    entropy: Tensor
    raw: Tensor | None = None


def targets(batch: Sequences) -> Tensor:
    """The action tokens, `[actions]`."""
    return batch.tokens[batch.is_action]


IDLE = Sequences.pack([([0, 0], [False, True])])
"""What a rank computes, without effect, while others still have micro-batches."""


@torch.no_grad()
def over_actions(
    outputs: Outputs,
    heads: Sequence[Callable[[Tensor, Sequences], Tensor]],
    batch: Sequences,
    max_tokens: int,
    agree: Callable[[int], int] = lambda count: count,
) -> list[Tensor]:
    """Apply `heads` to the outputs of each micro-batch; fp32 `[tokens]` each, 0 off actions.

    `agree`: the largest number of micro-batches of any rank, where all must go forward together.
    """
    results = [torch.zeros(len(batch.tokens)) for _ in heads]
    cut = micro_batches(batch.lengths, max_tokens)
    idle = agree(len(cut)) - len(cut)
    for indices in cut:
        part = batch.select(indices)
        at = batch.positions(indices)[part.is_action]
        found = outputs(part)
        for result, head in zip(results, heads, strict=True):
            result[at] = head(found, part).float().cpu()
    for _ in range(idle):
        outputs(IDLE)
    return results


def forward(
    engine: Engine,
    heads: Sequence[Callable[[Tensor, Sequences], Tensor]],
    batch: Sequences,
    max_tokens: int,
) -> list[Tensor]:
    """`over_actions` of a training engine, in step with its other ranks where it must be."""
    if engine.partitioned:
        return over_actions(engine.outputs, heads, batch, max_tokens, engine.agree)
    return over_actions(engine.outputs, heads, batch, max_tokens)


def logprob_head(temperature: float) -> Callable[[Tensor, Sequences], Tensor]:
    """Log-probs of the action tokens from logits `[actions, vocab]` at `temperature`."""

    def head(logits: Tensor, batch: Sequences) -> Tensor:
        return logprobs_of(tempered(logits, temperature), targets(batch).to(logits.device))

    return head


def entropy_head(temperature: float) -> Callable[[Tensor, Sequences], Tensor]:
    """Entropies from logits `[actions, vocab]` at `temperature`."""
    return lambda logits, _: entropy_of(tempered(logits, temperature))


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Logits of the distribution at `temperature`; raises ValueError unless it is positive."""
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, is {temperature}")
    return logits if temperature == 1.0 else logits / temperature
