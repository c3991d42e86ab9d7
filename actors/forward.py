"""Forward passes without gradients, in fixed micro-batches: a pure function of the batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.batch import Sequences, micro_batches
from actors.engines.protocol import Engine
from pretrain_core.model.logprobs import entropy_of, logprobs_of

Outputs = Callable[[Sequences], Tensor]
"""Head outputs one position before each action token: Sequences → `[actions, …]`."""

Head = Callable[[Tensor, Sequences], Tensor]
"""What is made of them: outputs, their sequences → `[actions]`."""


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


Agree = Callable[[int], int]
"""The largest count over the ranks that must go forward together."""


def alone(count: int) -> int:
    """For models that wait for no other rank."""
    return count


def in_step(engine: Engine) -> Agree:
    """How a training engine agrees with its other ranks, where it must."""
    return engine.agree if engine.partitioned else alone


@torch.no_grad()
def over_actions(
    outputs: Outputs,
    heads: Sequence[Head],
    batch: Sequences,
    max_tokens: int,
    agree: Agree = alone,
) -> list[Tensor]:
    """Apply `heads` to the outputs of each micro-batch; fp32 `[tokens]` each, 0 off actions."""
    results = [torch.zeros(len(batch.tokens)) for _ in heads]
    for part, at, found in _micro_outputs(outputs, batch, max_tokens, agree):
        for result, head in zip(results, heads, strict=True):
            result[at] = head(found, part).float().cpu()
    return results


@torch.no_grad()
def distributions(
    outputs: Outputs,
    batch: Sequences,
    max_tokens: int,
    temperature: float,
    agree: Agree = alone,
) -> Tensor:
    """log p of every token at each action, in the order of actions: fp32 `[actions, vocab]`."""
    order = batch.is_action.cumsum(0) - 1
    result = torch.zeros(0)
    for _, at, found in _micro_outputs(outputs, batch, max_tokens, agree):
        logs = tempered(found.float(), temperature).log_softmax(-1).cpu()
        if not len(result):
            result = logs.new_empty(int(batch.is_action.sum()), logs.shape[-1])
        result[order[at]] = logs
    return result


def _micro_outputs(
    outputs: Outputs, batch: Sequences, max_tokens: int, agree: Agree
) -> Iterator[tuple[Sequences, Tensor, Tensor]]:
    """Each micro-batch, where in `batch.tokens` its actions are, and its outputs."""
    cut = micro_batches(batch.lengths, max_tokens)
    idle = agree(len(cut)) - len(cut)
    for indices in cut:
        part = batch.select(indices)
        yield part, batch.positions(indices)[part.is_action], outputs(part)
    for _ in range(idle):
        outputs(IDLE)


def logprob_head(temperature: float) -> Head:
    """Log-probs of the action tokens from logits `[actions, vocab]` at `temperature`."""

    def head(logits: Tensor, batch: Sequences) -> Tensor:
        return logprobs_of(tempered(logits, temperature), targets(batch).to(logits.device))

    return head


def entropy_head(temperature: float) -> Head:
    """Entropies from logits `[actions, vocab]` at `temperature`."""
    return lambda logits, _: entropy_of(tempered(logits, temperature))


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Logits of the distribution at `temperature`; raises ValueError unless it is positive."""
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, is {temperature}")
    return logits if temperature == 1.0 else logits / temperature
