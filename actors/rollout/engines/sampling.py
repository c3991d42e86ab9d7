"""Drawing the next token, row by row from its own generator: the sampler of the HF engine.

Order of the steps as in vLLM: minimum length, temperature, top-p, draw.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

LIKELIEST = 1024
"""Tokens among which a nucleus is looked for first."""

GREEDY = 1e-5
"""Below this temperature the likeliest token is taken."""


def draw(
    logits: Tensor,
    temperature: float,
    top_p: float,
    forbidden: Tensor | None,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token per row of `logits` `[rows, vocab]`.

    `forbidden` `[rows, vocab]` marks tokens that may not be drawn. Returns (tokens, behaviour
    log-probs, raw log-probs), each `[rows]`. Every row uses one number of its own generator.
    """
    raw = logits.float().log_softmax(-1)
    masked = raw if forbidden is None else raw.masked_fill(forbidden, -torch.inf)
    if temperature < GREEDY:
        behaviour = masked.log_softmax(-1)
        tokens = behaviour.argmax(-1)
    else:
        behaviour = nucleus((masked / temperature).log_softmax(-1), top_p)
        uniform = torch.stack([torch.rand((), generator=g) for g in generators])
        tokens = _inverse_cdf(behaviour, uniform)
    at = tokens.unsqueeze(-1)
    return tokens, behaviour.gather(-1, at).squeeze(-1), raw.gather(-1, at).squeeze(-1)


def nucleus(logprobs: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens with mass ≥ `top_p`, renormalised; others -inf.

    Nucleus sampling, Holtzman et al. 2020 (arXiv 1904.09751), section 3.1.
    """
    if top_p >= 1:
        return logprobs
    outside = outside_nucleus(logprobs, torch.full(logprobs.shape[:1], top_p))
    return logprobs.masked_fill(outside, -torch.inf).log_softmax(-1)


def outside_nucleus(logprobs: Tensor, top_p: Tensor, likeliest: int = LIKELIEST) -> Tensor:
    """Tokens `[rows, vocab]` that are not in a row's nucleus of mass `top_p` `[rows]`.

    Only the `likeliest` tokens are put in order, and all of them in rows where those are not
    enough: sorting a whole vocabulary for each token is a good part of a small model's sampling.
    """
    count = min(likeliest, logprobs.shape[-1])
    ordered, order = logprobs.topk(count, dim=-1)
    mass = ordered.exp()
    before = mass.cumsum(-1) - mass
    outside = torch.ones_like(logprobs, dtype=torch.bool)
    outside.scatter_(-1, order, before >= top_p.unsqueeze(-1))
    wider = (before[:, -1] + mass[:, -1] < top_p).nonzero().squeeze(-1)
    if len(wider) and count < logprobs.shape[-1]:
        outside[wider] = outside_nucleus(logprobs[wider], top_p[wider], logprobs.shape[-1])
    outside[top_p >= 1] = False
    return outside


def _inverse_cdf(logprobs: Tensor, uniform: Tensor) -> Tensor:
    # In double precision: the sum over a large vocabulary must not drift past the last token.
    cumulative = logprobs.double().exp().cumsum(-1)
    at = uniform.double().unsqueeze(-1) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, at, right=True).squeeze(-1)
    return tokens.clamp(max=logprobs.shape[-1] - 1)
