"""Initial weights: fresh, from a Hugging Face folder, from a run, or from its checkpoint."""

from pathlib import Path

from pretrain_core.convert import import_hf
from pretrain_core.convert.config import from_hf_config
from pretrain_core.draws import torch_generator
from pretrain_core.model import ModelConfig, Transformer
from pretrain_core.runs import read_json
from pretrain_core.train.checkpoint import STATE_FILE, CheckpointError, load_model

EXPORT = "export"
TOKENIZER = "tokenizer"


def find_weights(path: Path) -> Path:
    """The model or checkpoint folder that a path stands for (a run means its export).

    Raises `CheckpointError` saying what was looked for.
    """
    for candidate in (path, path / EXPORT):
        if (candidate / "config.json").is_file() or (candidate / STATE_FILE).is_file():
            return candidate
    raise CheckpointError(
        f"{path}: no weights here (looked for a model folder with config.json, a run with "
        f"{EXPORT}/, or a checkpoint with {STATE_FILE})"
    )


def find_tokenizer(weights: Path) -> Path:
    """Folder of the tokenizer that belongs to weights: their own, or that of their run."""
    for candidate in (weights, weights.parent.parent / TOKENIZER):
        if (candidate / "tokenizer_config.json").is_file():
            return candidate
    raise CheckpointError(f"{weights}: no tokenizer beside it; give tokenizer.folder")


def read_weights(weights: Path) -> Transformer:
    """The model of a Hugging Face folder or of a checkpoint, fp32."""
    if (weights / STATE_FILE).is_file():
        return load_model(weights)
    return import_hf(weights)


def read_config(weights: Path) -> ModelConfig:
    """The shape of the model that `read_weights` would give."""
    if (weights / STATE_FILE).is_file():
        return ModelConfig.model_validate(read_json(weights / STATE_FILE)["fingerprint"]["model"])
    path = weights / "config.json"
    return from_hf_config(read_json(path), str(path))[0]


def make_model(config: ModelConfig, init: Path | None, seed: int) -> Transformer:
    """The model at step 0; fresh weights depend on the seed alone."""
    if init is None:
        return Transformer(config, generator=torch_generator(seed, "initial weights"))
    return read_weights(init)
