"""Fully sharded data parallelism (FSDP2, Zhao et al., arXiv 2304.11277) over one mesh."""

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from pretrain_core.model import Transformer
from pretrain_core.parallel.world import World


def shard(root: nn.Module, model: Transformer, world: World) -> None:
    """Shard `model`'s blocks one by one and the rest with `root`, which computes the loss.

    Gradients come out *averaged* over the ranks: the loss must be scaled by `world.size`.
    Does nothing in a world of one.
    """
    if world.mesh is None:
        return
    for block in model.layers:
        fully_shard(block, mesh=world.mesh)
    fully_shard(root, mesh=world.mesh)


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """The whole state dict on the CPU: complete on rank 0, empty elsewhere; call on all ranks."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}
