"""Hugging Face folders as the engines see them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from actors.rollout.requests import EngineStartError

# What may differ between two checkpoints of one model.
INCIDENTAL = {"_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache"}


def check_folder(folder: Path) -> None:
    """Raises `EngineStartError` unless the folder holds a configuration and safetensors."""
    if not (folder / "config.json").is_file():
        raise EngineStartError(f"{folder} is no model folder: it has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise EngineStartError(f"{folder} has no *.safetensors: export the model first")


def same_model(one: Path, other: Path) -> bool:
    """Whether two folders differ in nothing but their weights."""
    return _essential(one) == _essential(other)


def weights_of(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a folder, file by file."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                yield name, tensors.get_tensor(name)


def _essential(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {key: value for key, value in config.items() if key not in INCIDENTAL}
