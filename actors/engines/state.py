"""Training state as safetensors, whole tensors by parameter: for any number of ranks and any ZeRO
stage to read."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from actors.batch import Sequences
from actors.engines.protocol import TrainingStateError
from actors.forward import IDLE
from pretrain_core.runs import read_json, write_json

INDEX = "state.json"
SHARD_BYTES = 2**31
"""Of weights in one file, which its writer holds together with their moments."""
WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")
_RANDOM = "torch"


class Trained(Protocol):
    """What of a DeepSpeed engine is looked at: `engine` is DeepSpeed's own."""

    model: nn.Module
    engine: Any
    sharded: bool
    partitioned: bool

    def outputs(self, batch: Sequences) -> Tensor:
        """See `Engine`."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """See `Engine`."""


def save_state(engine: Trained, folder: Path) -> None:
    """Write all weights that learn, AdamW's moments and random states; every rank calls it.

    The files are shared out among the ranks; the index comes last.
    """
    rank, ranks = dist.get_rank(), dist.get_world_size()
    folder.mkdir(parents=True, exist_ok=True)
    if _step(engine):
        _link(engine)
    parameters = _learning(engine)
    files = {}
    for number, names in enumerate(_shards(parameters)):
        file = f"state-{number:05d}.safetensors"
        held = {}
        for name in names:
            files[name] = file
            # Gathered by all ranks together, kept by one.
            for key, whole in _whole(engine, parameters[name]):
                if number % ranks == rank:
                    held[f"{key}/{name}"] = whole.detach().cpu().contiguous()
        if held:
            save_file(held, folder / file)
    save_file({_RANDOM: torch.get_rng_state()}, _random(folder, rank, ranks))
    dist.barrier()
    if rank == 0:
        index = {"step": _step(engine), "shapes": _shapes(parameters), "files": files}
        write_json(folder / INDEX, index)
    dist.barrier()


def load_state(engine: Trained, folder: Path) -> None:
    """Bring back `save_state`; every rank calls it. Learning rate and the like stay as set now.

    With as many ranks as saved it, the random state comes back too, and the training goes on bit
    for bit. Raises TrainingStateError where there is no state, or one of another model.
    """
    if not (folder / INDEX).is_file():
        raise TrainingStateError(f"{folder} holds no training state, or an unfinished one")
    index = read_json(folder / INDEX)
    parameters = _learning(engine)
    _check(folder, index["shapes"], _shapes(parameters))
    if index["step"]:
        _prime(engine)
    for file in sorted(set(index["files"].values())):
        with safe_open(folder / file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                kind, _, name = key.partition("/")
                _set(engine, parameters[name], kind, tensors.get_tensor(key))
    for state in _base(engine).state.values():
        state["step"].fill_(index["step"])
    random = _random(folder, dist.get_rank(), dist.get_world_size())
    if random.is_file():
        torch.set_rng_state(load_file(random)[_RANDOM])


def _learning(engine: Trained) -> dict[str, nn.Parameter]:
    named = engine.model.named_parameters()
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def _shards(parameters: Mapping[str, nn.Parameter]) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, parameter in parameters.items():
        names.append(name)
        size += 4 * _shape(parameter).numel()
        if size >= SHARD_BYTES:
            yield names
            names, size = [], 0
    if names:
        yield names


def _whole(engine: Trained, parameter: nn.Parameter) -> Iterator[tuple[str, Tensor]]:
    """Weight and moments of a parameter; no moments before the first step."""
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters
    from deepspeed.utils import safe_get_full_optimizer_state

    with GatheredParameters([parameter], enabled=engine.partitioned):
        yield WEIGHT, parameter.detach().clone()
    if not _step(engine):
        return
    for key in MOMENTS:
        if engine.sharded:
            yield key, safe_get_full_optimizer_state(parameter, key)
        elif parameter in engine.engine.optimizer.state:
            yield key, engine.engine.optimizer.state[parameter][key]


def _set(engine: Trained, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    value = value.to(parameter.device)
    if kind == WEIGHT:
        with GatheredParameters([parameter], modifier_rank=0, enabled=engine.partitioned):
            if not engine.partitioned or dist.get_rank() == 0:
                parameter.data.copy_(value)
    if engine.partitioned:
        part = _part(parameter, value)
        if kind == WEIGHT:
            safe_set_local_fp32_param(parameter, part)
        else:
            safe_set_local_optimizer_state(parameter, part, kind)
    elif engine.sharded:
        if kind == WEIGHT:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, kind)
    elif kind != WEIGHT:
        engine.engine.optimizer.state[parameter][kind].copy_(value)


def _part(parameter: Any, value: Tensor) -> Tensor:
    """This rank's share of a partitioned parameter, padded at its end."""
    size = parameter.ds_tensor.ds_numel
    flat = value.flatten()
    start = min(dist.get_rank() * size, len(flat))
    mine = flat[start : start + size]
    return torch.nn.functional.pad(mine, (0, size - len(mine)))


def _prime(engine: Trained) -> None:
    """One step of rate 0 on a gradient of 0: the optimiser makes the tensors that are set then."""
    groups = engine.engine.optimizer.param_groups
    rates = [group["lr"] for group in groups]
    for group in groups:
        group["lr"] = 0.0
    engine.backward(engine.outputs(IDLE).sum() * 0.0, last=True)
    engine.engine.step()
    _link(engine)
    for group, rate in zip(engine.engine.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _link(engine: Trained) -> None:
    """Let parameters of stages 1 and 2 find their moments.

    DeepSpeed does it after the first group's first step, when the other groups have none yet.
    """
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    if not engine.sharded or engine.partitioned:
        return
    zero = engine.engine.optimizer
    for parameters, flat in zip(
        zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True
    ):
        lazy_init_hp_params_optimizer_state(parameters, flat, zero.optimizer.state)


def _base(engine: Trained) -> torch.optim.Optimizer:
    """AdamW, under whatever ZeRO wraps it in."""
    optimizer = engine.engine.optimizer
    found: torch.optim.Optimizer = optimizer.optimizer if engine.sharded else optimizer
    return found


def _step(engine: Trained) -> int:
    return max((int(state["step"]) for state in _base(engine).state.values()), default=0)


def _shape(parameter: Any) -> torch.Size:
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def _shapes(parameters: Mapping[str, nn.Parameter]) -> dict[str, list[int]]:
    return {name: list(_shape(parameter)) for name, parameter in parameters.items()}


def _check(folder: Path, stored: dict[str, list[int]], own: dict[str, list[int]]) -> None:
    for name in sorted(stored.keys() | own.keys()):
        if stored.get(name) != own.get(name):
            raise TrainingStateError(
                f"{folder} is the state of another model: {name} is"
                f" {stored.get(name, 'not there')}, this model's is {own.get(name, 'not there')}"
            )


def _random(folder: Path, rank: int, ranks: int) -> Path:
    return folder / f"random-{rank}-of-{ranks}.safetensors"
