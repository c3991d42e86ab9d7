"""Models in and out: our weights to and from Hugging Face folders, and the GGUF import."""

from pretrain_core.convert.folder import (
    export_internlm2,
    export_llama,
    export_state,
    import_hf,
)
from pretrain_core.convert.gguf import import_gguf
from pretrain_core.convert.names import ConversionError, fuse_wqkv, split_wqkv
from pretrain_core.convert.smollm2 import import_smollm2

__all__ = [
    "ConversionError",
    "export_internlm2",
    "export_llama",
    "export_state",
    "fuse_wqkv",
    "import_gguf",
    "import_hf",
    "import_smollm2",
    "split_wqkv",
]
