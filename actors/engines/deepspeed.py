"""Training by DeepSpeed: ZeRO stages 0 to 3, fp32 weights, gradients summed over ranks."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from actors.batch import Sequences
from actors.engines.door import Door
from actors.engines.frozen import share_frozen
from actors.engines.lora import has_adapters, merged_weights
from actors.engines.protocol import EngineSettings, NonFiniteError, OptimSettings
from actors.engines.state import load_state, save_state
from pretrain_core.deepspeed import import_deepspeed
from pretrain_core.precision import products_of

_WHOLE_BELOW = 10_000
"""Parameters that stage 3 leaves whole on every rank: norms and biases."""


class DeepSpeedEngine:
    """`Engine` on DeepSpeed; torch.distributed must be initialised.

    The losses given to `backward` carry global denominators, hence gradients are summed, not
    averaged, over micro-batches and ranks.
    """

    def __init__(
        self, model: nn.Module, head: nn.Module, optim: OptimSettings, settings: EngineSettings
    ) -> None:
        self.optim = optim
        self.sharded = settings.zero_stage > 0
        self.partitioned = settings.zero_stage == 3
        self.model = model
        self.adapted = has_adapters(model)
        self.door = Door(model, head, autocast=False)
        self.engine = _initialise(self.door, _adamw(model, optim), optim, settings)
        # Only now is it known where the model lives.
        self.products = products_of(settings.dtype, self.engine.device)
        self.door.autocast = self.products == torch.bfloat16
        if not self.partitioned:
            share_frozen(model)
        if dist.get_world_size() == 1 and not self.sharded:
            # Nothing to add up: spares flattening and copying back the whole gradient.
            self.engine.enable_backward_allreduce = False

    def outputs(self, batch: Sequences) -> Tensor:
        """Head outputs one position before each action token, `[actions, …]`."""
        # Partitioned weights are gathered by DeepSpeed's own forward.
        through = torch.is_grad_enabled() or self.partitioned
        result: Tensor = self.engine(batch) if through else self.door(batch)
        return result

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of `loss`; `last` closes the step and sums over ranks."""
        self.engine.set_gradient_accumulation_boundary(last)
        # Stage 3 knows means over ranks only.
        self.engine.backward(loss * dist.get_world_size() if self.partitioned else loss)

    def step(self) -> float:
        """Clip, update, clear; raises NonFiniteError before any weight changes."""
        if self.sharded:
            # DeepSpeed itself leaves weights alone and drops gradients of a non-finite norm.
            self.engine.step()
            if not self.engine.was_step_applied():
                raise NonFiniteError("the gradient norm is not finite; the step was not taken")
            return float(self.engine.get_global_grad_norm())
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            self.engine.zero_grad()
            raise NonFiniteError(f"the gradient norm is {norm.item()}; the step was not taken")
        torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.optim.grad_clip, norm)
        self.engine.step()
        return norm.item()

    def agree(self, count: int) -> int:
        """The largest `count` over all ranks."""
        if dist.get_world_size() == 1:
            return count
        largest = torch.tensor(count, device=self.engine.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest)

    def gather_ids(self, ids: tuple[str, ...]) -> tuple[str, ...]:
        """The ids of all ranks, in rank order."""
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, ids)
        return tuple(name for part in gathered for name in part)

    def save_state(self, folder: Path) -> None:
        """Write weights, optimiser and random state; see `actors.engines.state`."""
        save_state(self, folder)

    def load_state(self, folder: Path) -> None:
        """Bring back `save_state`; raises TrainingStateError."""
        load_state(self, folder)

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Full fp32 weights under Hugging Face names, adapters merged; tied ones once."""
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        if self.adapted or self.partitioned:
            yield from merged_weights(
                self.model, partial(GatheredParameters, enabled=self.partitioned)
            )
            return
        for name, parameter in self.model.named_parameters():
            yield name, parameter.detach()


def _adamw(model: nn.Module, optim: OptimSettings) -> torch.optim.AdamW:
    learning = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in learning if p.dim() > 1]
    others = [p for p in learning if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": optim.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=optim.lr,
        betas=optim.betas,
        eps=optim.eps,
        fused=True,
    )


def _offloaded(settings: EngineSettings) -> dict[str, Any]:
    kept = {"none": (), "optimiser": ("optimizer",), "weights": ("optimizer", "param")}
    pinned = torch.cuda.is_available()
    return {
        f"offload_{what}": {"device": "cpu", "pin_memory": pinned}
        for what in kept[settings.offload]
    }


def _initialise(
    door: Door, optimizer: torch.optim.Optimizer, optim: OptimSettings, settings: EngineSettings
) -> Any:
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_allreduce_op": "mean" if settings.zero_stage == 3 else "sum",
        # Without sharding we clip ourselves, between the check of the norm and the update.
        "gradient_clipping": optim.grad_clip if settings.zero_stage else 0.0,
        "zero_optimization": {
            "stage": settings.zero_stage,
            "stage3_param_persistence_threshold": _WHOLE_BELOW,
            **_offloaded(settings),
        },
        # Its own AdamW for the host is compiled on the spot; torch's is there.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }
    engine, *_ = import_deepspeed().initialize(model=door, optimizer=optimizer, config=config)
    return engine
