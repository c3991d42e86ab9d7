"""AdamW with decoupled weight decay on matrices only (Loshchilov & Hutter, arXiv 1711.05101)."""

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from pretrain_core.train.settings import OptimiserSettings


def make_optimiser(module: nn.Module, settings: OptimiserSettings) -> torch.optim.AdamW:
    """Optimiser over all weights; norms (1-d) are not decayed."""
    matrices = [p for p in module.parameters() if p.dim() > 1]
    vectors = [p for p in module.parameters() if p.dim() <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def clip(module: nn.Module, maximum: float) -> float:
    """Scale gradients to a global norm of at most `maximum`; returns the norm before."""
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), maximum)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def require_gradients(module: nn.Module) -> None:
    """Fail where a parameter got no gradient: a silent error of parallel schedules."""
    missing = [name for name, p in module.named_parameters() if p.grad is None]
    if missing:
        raise RuntimeError(f"no gradient reached {', '.join(missing[:5])} ({len(missing)} in all)")
