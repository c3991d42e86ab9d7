"""Light heads beside the score head: where they disagree, the reward model is unsure.

They read the hidden state at the score token and never train it. Each starts at the score head with
noise of its own, and learns from its own bootstrap of the pairs, by the same loss.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from pretrain_core.draws import rng, torch_generator
from pretrain_core.runs.files import write_json
from reward.card import RewardModelError
from reward.network import ENSEMBLE, DetachedHeads

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEADS = "heads.safetensors"
WEIGHTS = "model.safetensors"


def add_heads(network: "PreTrainedModel", heads: int, seed: int, std: float) -> None:
    """Make it `heads` in all; if that changes their number, the further ones start anew.

    `std`: spread of the noise on their weights.
    """
    if count_heads(network) == heads:
        return
    if heads == 1:
        delattr(network, ENSEMBLE)
        return
    hidden = network.score.in_features
    ensemble = DetachedHeads(hidden, heads - 1, bias=False, device=network.device)
    drawn = torch.empty(heads - 1, hidden).normal_(
        0.0, std, generator=torch_generator(seed, "reward/heads")
    )
    ensemble.weight = nn.Parameter(network.score.weight.detach() + drawn.to(network.device))
    setattr(network, ENSEMBLE, ensemble)


def count_heads(network: "PreTrainedModel") -> int:
    """Heads of a network, the score's included."""
    ensemble = getattr(network, ENSEMBLE, None)
    return 1 if ensemble is None else 1 + len(ensemble.weight)


def bootstrap_counts(heads: int, seed: int, index: int, name: str) -> list[int]:
    """How often each further head sees a pair: Poisson(1), the bootstrap's limit [heads − 1]."""
    draw = rng(seed, "reward/bootstrap", index, name)
    return [int(count) for count in draw.poisson(1.0, heads - 1)]


def write_heads(network: "PreTrainedModel", folder: Path) -> None:
    """Save the network as plain HF weights, further heads in a file of their own beside them.

    An index names the files that hold the network, so that readers of all `*.safetensors` (vLLM)
    pass over ours.
    """
    from safetensors.torch import save_file

    ensemble = network._modules.pop(ENSEMBLE, None)
    try:
        network.save_pretrained(folder)
    finally:
        if ensemble is not None:
            network._modules[ENSEMBLE] = ensemble
    if ensemble is None:
        return
    save_file({"weight": ensemble.weight.detach().float().cpu().contiguous()}, folder / HEADS)
    if (folder / WEIGHTS).exists():
        names = _names(folder / WEIGHTS)
        size = (folder / WEIGHTS).stat().st_size
        index = {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(names, WEIGHTS)}
        write_json(folder / f"{WEIGHTS}.index.json", index)


def read_heads(network: "PreTrainedModel", folder: Path, heads: int) -> None:
    """Put the saved further heads on the network; RewardModelError if they are not `heads` − 1."""
    from safetensors.torch import load_file

    if heads == 1:
        return
    path, hidden = folder / HEADS, network.score.in_features
    if not path.is_file():
        raise RewardModelError(f"{folder}: the card names {heads} heads, but {HEADS} is missing")
    weight = load_file(path)["weight"]
    if weight.shape != (heads - 1, hidden):
        raise RewardModelError(
            f"{path}: weights {tuple(weight.shape)}, the card's {heads} heads need "
            f"{(heads - 1, hidden)}"
        )
    ensemble = DetachedHeads(hidden, heads - 1, bias=False, device="meta")
    ensemble.weight = nn.Parameter(weight)
    setattr(network, ENSEMBLE, ensemble)


def _names(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return sorted(opened.keys())
