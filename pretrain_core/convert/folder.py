"""Hugging Face model folders: export under two layouts, import from both."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pretrain_core.convert.config import from_hf_config, to_hf_config
from pretrain_core.convert.names import ConversionError, Layout, from_hf, to_hf
from pretrain_core.model import ModelConfig, Transformer
from pretrain_core.runs import read_json, write_json

MAX_SHARD_SIZE = "5GB"
CHAT_END = "<|im_end|>"


def export_llama(model: Transformer, tokenizer: PreTrainedTokenizerBase, out: Path) -> Path:
    """Write a folder that `LlamaForCausalLM.from_pretrained` and vLLM load; returns `out`."""
    return export_state(model.state_dict(), model.config, tokenizer, out, "llama")


def export_internlm2(model: Transformer, tokenizer: PreTrainedTokenizerBase, out: Path) -> Path:
    """Write a folder under InternLM2's names, which vLLM loads by our plug-in; returns `out`."""
    return export_state(model.state_dict(), model.config, tokenizer, out, "internlm2")


def export_state(
    state: Mapping[str, Tensor],
    config: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    layout: Layout,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a full state dict (as gathered from shards) as a folder of `layout`; returns `out`.

    `dtype` converts the weights, otherwise they stay as they are. Raises ConversionError when the
    tokenizer has more tokens than the model has embeddings.
    """
    # Imported here: it is needed for writing only.
    from huggingface_hub import save_torch_state_dict

    if len(tokenizer) > config.vocab_size:
        raise ConversionError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {config.vocab_size} embeddings: "
            "they do not belong together"
        )
    weights = {
        name: tensor.detach().to("cpu", dtype or tensor.dtype)
        for name, tensor in to_hf(state, config, layout).items()
    }
    kinds = {tensor.dtype for tensor in weights.values()}
    if len(kinds) != 1:
        raise ConversionError(f"weights of several dtypes {sorted(map(str, kinds))}: pass `dtype`")
    out.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(weights, out, max_shard_size=MAX_SHARD_SIZE)
    tokenizer.save_pretrained(out)
    name = str(kinds.pop()).removeprefix("torch.")
    ends = _end_tokens(tokenizer)
    specials = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    write_json(out / "generation_config.json", {**specials, "eos_token_id": ends})
    # Last, because readers recognise a model folder by it.
    write_json(
        out / "config.json",
        {**to_hf_config(config, layout, name), **specials, "eos_token_id": tokenizer.eos_token_id},
    )
    return out


def import_hf(folder: Path, dtype: torch.dtype | None = torch.float32) -> Transformer:
    """Our model from a Hugging Face Llama or InternLM2 folder (safetensors only).

    Weights become `dtype`, fp32 for training by default; None keeps the folder's. Raises
    ConversionError naming what is missing or cannot be expressed.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ConversionError(f"{folder} has no config.json: it is no Hugging Face model folder")
    config, layout = from_hf_config(read_json(path), str(path))
    with torch.device("meta"):
        model = Transformer(config)
    ours = from_hf(_read_weights(folder), config, layout, model.state_dict())
    for name, expected in model.state_dict().items():
        if ours[name].shape != expected.shape:
            raise ConversionError(
                f"{folder}: {name} has shape {tuple(ours[name].shape)}, "
                f"config.json asks for {tuple(expected.shape)}"
            )
    if dtype is not None:
        ours = {name: tensor.to(dtype) for name, tensor in ours.items()}
    model.load_state_dict(ours, assign=True)
    model.tie()
    return model


def _read_weights(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = sorted(set(read_json(index)["weight_map"].values()))
    else:
        files = ["model.safetensors"]
    absent = [name for name in files if not (folder / name).is_file()]
    if absent:
        raise ConversionError(
            f"{folder} has no {', '.join(absent)}; weights are read from safetensors only, "
            "never from pickled .bin files"
        )
    weights: dict[str, Tensor] = {}
    for name in files:
        weights.update(load_file(folder / name))
    return weights


def _end_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Where generation ends: the end of a document, and of a chat turn where there is one."""
    vocabulary = tokenizer.get_vocab()
    ends = {tokenizer.eos_token_id, vocabulary.get(CHAT_END)}
    return sorted(token for token in ends if token is not None)
