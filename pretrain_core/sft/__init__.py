"""Supervised fine-tuning on conversations, in the training loop of pre-training."""

from pretrain_core.sft.data import build_sft_store
from pretrain_core.sft.finetune import SftSettings, sft

__all__ = ["SftSettings", "build_sft_store", "sft"]
