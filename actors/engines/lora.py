"""Low-rank adapters over a frozen base (LoRA, arXiv 2106.09685), by PEFT."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from pretrain_core.draws import seed_of
from pretrain_core.errors import InputError
from pretrain_core.settings import Settings

_ADAPTER = "default"
_BASE, _LOW_RANK = ".base_layer.", ".lora_"


class LoraSettings(Settings):
    """Adapters beside every linear layer but the heads; nothing else learns."""

    rank: int = Field(default=16, gt=0)
    alpha: int = Field(default=32, gt=0, description="adapters count alpha / rank times")
    last_layers: int | None = Field(
        default=None,
        gt=0,
        description="adapters in the last so many layers only: no backward pass goes below them",
    )


def add_adapters(model: nn.Module, settings: LoraSettings, seed: int) -> None:
    """Freeze the model and put adapters beside its linear layers, in place.

    They begin without effect, and alike on every rank. Raises InputError for more layers than
    the model has.
    """
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng():
        torch.manual_seed(seed_of(seed, "lora"))
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=0.0,
            target_modules=_targets(model, settings.last_layers),
        )
        inject_adapter_in_model(config, model, adapter_name=_ADAPTER)


def _targets(model: nn.Module, last_layers: int | None) -> list[str] | str:
    if last_layers is None:
        return "all-linear"
    stacks = {n: m for n, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    name, stack = max(stacks.items(), key=lambda item: len(item[1]))
    if last_layers > len(stack):
        raise InputError(f"lora.last_layers {last_layers}: the model has {len(stack)} layers")
    return [
        f"{name}.{number}.{inner}"
        for number in range(len(stack) - last_layers, len(stack))
        for inner, module in stack[number].named_modules()
        if isinstance(module, nn.Linear)
    ]


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Inside, the model is its base."""
    layers = _adapted(model).values()
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merged_weights(
    model: nn.Module, gather: Callable[[Sequence[nn.Parameter]], AbstractContextManager[Any]]
) -> Iterator[tuple[str, Tensor]]:
    """All weights as they act, under the names that they have without adapters.

    `gather`: brings parameters together that are partitioned.
    """
    layers = _adapted(model)
    for name, parameter in model.named_parameters():
        owner, is_base, own = name.rpartition(_BASE)
        if _LOW_RANK in name:
            continue
        if not is_base or own != "weight":
            with gather([parameter]):
                yield name.replace(_BASE, "."), parameter.detach().clone()
            continue
        layer = layers[owner]
        with gather([parameter, *layer.lora_A.parameters(), *layer.lora_B.parameters()]):
            change = layer.get_delta_weight(_ADAPTER).detach()
            yield f"{owner}.{own}", parameter.detach() + change


def has_adapters(model: nn.Module) -> bool:
    """Whether `add_adapters` was called on it, or on a part of it."""
    return any(_LOW_RANK in name for name, _ in model.named_parameters())


def _adapted(model: nn.Module) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
