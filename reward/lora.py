"""Low-rank adapters of a reward model: trained in place of the backbone, merged when saved."""

from typing import TYPE_CHECKING

import torch

from pretrain_core.draws import seed_of
from reward.card import RewardModelError
from reward.model import RewardModel
from reward.network import ENSEMBLE
from reward.settings import LoraSettings

if TYPE_CHECKING:
    from peft import PeftModel

HEADS = ("score", ENSEMBLE)


def add_adapters(model: RewardModel, settings: LoraSettings, seed: int) -> "PeftModel":
    """The network with adapters; heads and the score token's embedding are trained fully.

    Raises RewardModelError for targets that the network does not have.
    """
    from peft import LoraConfig, get_peft_model

    embedding = model.network.get_input_embeddings()
    names = [name for name, module in model.network.named_modules() if module is embedding]
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        exclude_modules=list(HEADS),
        modules_to_save=[name for name in HEADS if hasattr(model.network, name)],
        trainable_token_indices={names[0]: [model.score_id]},
    )
    try:
        with torch.random.fork_rng():  # the adapters draw from the global generator
            torch.manual_seed(seed_of(seed, "reward/lora"))
            return get_peft_model(model.network, config)
    except ValueError as error:
        raise RewardModelError(f"lora.targets {settings.targets}: {error}") from error


def merge_adapters(adapted: "PeftModel", model: RewardModel) -> None:
    """Fold the adapters into the model's own weights, which are plain ones again."""
    model.network = adapted.merge_and_unload()
