"""Reward-model folders as the service sees them: references, input builders, checked loading."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain_core.errors import InputError
from pretrain_core.runs.lineage import hash_file
from reward.card import RewardModelError, read_card
from reward.conditions import Conditions

if TYPE_CHECKING:
    from reward.model import RewardModel

PROBE = ({"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."})


@dataclass(frozen=True)
class ModelRef:
    """One model: where it lies, its version, and the hash of its weights."""

    folder: str
    version: str
    hash: str


def reference(folder: Path) -> ModelRef:
    """The reference of a folder; RewardModelError without a valid card, version or weights."""
    folder = folder.expanduser().resolve()
    card = read_card(folder)
    if not card.version:
        raise RewardModelError(f"{folder}: the card has no version: save the model anew")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise RewardModelError(f"{folder}: no safetensors file, so no weights")
    parts = "\n".join(hash_file(file) for file in files)
    return ModelRef(str(folder), card.version, hashlib.sha256(parts.encode()).hexdigest()[:16])


def input_builder(folder: Path) -> "RewardModel":
    """A reward model without weights, whose `input` is the one that training uses."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    from reward.model import RewardModel

    card = read_card(folder)
    try:
        with torch.device("meta"):
            network = AutoModelForSequenceClassification.from_config(
                AutoConfig.from_pretrained(folder)
            )
        return RewardModel(network, AutoTokenizer.from_pretrained(folder), card)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise RewardModelError(f"{folder}: no usable model or tokenizer: {error}") from error


def load_checked(folder: Path, device: str) -> "RewardModel":
    """Load a folder and refuse missing, non-finite or unusable weights with RewardModelError."""
    import torch
    from safetensors import SafetensorError

    from reward.model import RewardModel

    try:
        model = RewardModel.load(folder, device)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise RewardModelError(f"{folder}: the weights cannot be loaded: {error}") from error
    for name, weight in model.network.state_dict().items():
        if not bool(torch.isfinite(weight).all()):
            raise RewardModelError(f"{folder}: {name} holds numbers that are not finite")
    model.score([model.input(PROBE, None)])
    return model


def incompatible(old: Conditions, new: Conditions) -> str | None:
    """Why clients of the old conditions cannot use the new ones; None if they can."""
    gone = [name for name in old.names if name not in new]
    if gone:
        return f"it lacks the conditions {', '.join(gone)} that are served now"
    reworded = old.conflicts(new)
    if reworded:
        return f"it words the conditions {', '.join(reworded)} differently"
    return None
