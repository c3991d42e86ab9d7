"""Training: one loop for pre-training and SFT, alone or on many ranks."""

from pretrain_core.train.pretrain import train
from pretrain_core.train.settings import FitSettings, TrainSettings
from pretrain_core.train.trainer import NonFiniteError

__all__ = ["FitSettings", "NonFiniteError", "TrainSettings", "train"]
