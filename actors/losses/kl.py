"""Estimates of KL(π ‖ π_ref) from sampled tokens (J. Schulman, "Approximating KL Divergence").

All take log π − log π_ref of tokens that π sampled. As rewards, k1 and k3 are unbiased. As losses,
k2's gradient is that of the KL, k1's is zero on average, k3's is that of KL(π_ref ‖ π) where the
policies are close: it pulls back too little where π has left the reference.
"""

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

KLEstimate = Literal["k1", "k2", "k3"]


def k1(difference: Tensor) -> Tensor:
    """log π − log π_ref: unbiased, of either sign."""
    return difference


def k2(difference: Tensor) -> Tensor:
    """Half its square: never negative, biased where the policies are far apart."""
    return 0.5 * difference.square()


def k3(difference: Tensor) -> Tensor:
    """π_ref/π − 1 + log π/π_ref: unbiased and never negative."""
    return difference.neg().expm1() + difference


KL_ESTIMATES: Mapping[KLEstimate, Callable[[Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def full_kl(logs: Tensor, reference: Tensor) -> Tensor:
    """KL(π ‖ π_ref) over the whole vocabulary, log-probs `[n, vocab]` of both → `[n]`, nats."""
    probabilities = logs.exp()
    # A token of probability 0 adds nothing; 0 · inf would be NaN.
    return (probabilities * (logs - reference).masked_fill(probabilities == 0.0, 0.0)).sum(-1)
