"""The InternLM2 architecture on one device; it knows nothing of parallelism."""

from pretrain_core.model.config import PRESETS, ModelConfig, preset
from pretrain_core.model.documents import Documents, DocumentsError
from pretrain_core.model.logprobs import entropy_of, logprobs_of, shifted
from pretrain_core.model.transformer import Transformer

__all__ = [
    "PRESETS",
    "Documents",
    "DocumentsError",
    "ModelConfig",
    "Transformer",
    "entropy_of",
    "logprobs_of",
    "preset",
    "shifted",
]
