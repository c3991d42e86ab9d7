"""Small batches, and what they should give by the plainest computation."""

from typing import Any

import torch
from torch import Tensor

from actors.batch import Experience, Sequences


def random_sequences(lengths: list[int], seed: int, vocab: int = 500) -> Sequences:
    """Random tokens; the second half of each sequence are actions."""
    generator = torch.Generator().manual_seed(seed)
    return Sequences.pack(
        (
            torch.randint(vocab, (length,), generator=generator).tolist(),
            [at > 0 and at >= length // 2 for at in range(length)],
        )
        for length in lengths
    )


def random_experience(lengths: list[int], seed: int) -> Experience:
    """Random samples with log-probs near those of a flat model."""
    batch = random_sequences(lengths, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    draw = [torch.randn(len(batch.tokens), generator=generator) for _ in range(5)]
    ids = tuple(f"sample-{index}" for index in range(batch.n))
    masked = [values * batch.is_action for values in draw]
    old = masked[0] - 6.0
    return Experience(
        ids,
        batch,
        old,
        advantages=masked[1],
        returns=masked[2],
        behaviour_logprobs=old + 0.5 * masked[3],
        reference_logprobs=old + 0.5 * masked[4],
    )


def random_text(lengths: list[int], seed: int) -> Sequences:
    """Random pre-training rows: all tokens but the first are targets."""
    batch = random_sequences(lengths, seed)
    flags = torch.ones_like(batch.is_action)
    flags[batch.cu_seqlens[:-1]] = False
    return Sequences(batch.tokens, batch.cu_seqlens, flags)


def alone(model: Any, tokens: list[int], is_action: list[bool]) -> Tensor:
    """Log-probs of the action tokens of one sequence without padding, `[tokens]`; 0 elsewhere."""
    logits = model(input_ids=torch.tensor([tokens])).logits[0].float()
    found = logits[:-1].log_softmax(-1).gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    return torch.nn.functional.pad(found, (1, 0)) * torch.tensor(is_action)
