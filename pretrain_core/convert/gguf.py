"""Models out of GGUF files of the Llama family: shape, dequantised weights, tokenizer."""

import re
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pretrain_core.convert.names import ConversionError, from_hf
from pretrain_core.model import ModelConfig, Transformer

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_IN_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_CONTROL = 3
"""GGUF's token type of control tokens."""


def import_gguf(path: Path) -> tuple[Transformer, PreTrainedTokenizerFast]:
    """Our model (fp32) and its tokenizer, with the chat template that the file carries.

    Raises ConversionError for another architecture, tokenizer kind or rope scaling than known.
    """
    # Imported here: only this reader needs it.
    import gguf

    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    names = {str(tensor.name) for tensor in reader.tensors}
    config = _config(keys, tied="output.weight" not in names, where=str(path))
    state: dict[str, Tensor] = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        name = _llama_name(str(tensor.name))
        state[name] = _in_order(name, torch.tensor(values, dtype=torch.float32), config)
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(from_hf(state, config, "llama", model.state_dict()), assign=True)
    model.tie()
    return model, _tokenizer(keys, str(path))


def _config(keys: dict[str, Any], tied: bool, where: str) -> ModelConfig:
    for key, allowed in {
        "general.architecture": ("llama",),
        "tokenizer.ggml.model": ("gpt2",),
        "llama.rope.scaling.type": (None, "none"),
    }.items():
        if keys.get(key) not in allowed:
            raise ConversionError(
                f"{where}: {key} = {keys.get(key)!r} is not supported, only {allowed[-1]!r}"
            )
    try:
        heads = keys["llama.attention.head_count"]
        return ModelConfig(
            vocab_size=len(keys["tokenizer.ggml.tokens"]),
            hidden=keys["llama.embedding_length"],
            layers=keys["llama.block_count"],
            heads=heads,
            kv_heads=keys.get("llama.attention.head_count_kv", heads),
            ffn=keys["llama.feed_forward_length"],
            rope_base=keys.get("llama.rope.freq_base", 10_000.0),
            norm_eps=keys["llama.attention.layer_norm_rms_epsilon"],
            tied=tied,
            max_positions=keys["llama.context_length"],
        )
    except KeyError as missing:
        raise ConversionError(f"{where}: key {missing} is missing") from missing


def _llama_name(name: str) -> str:
    block = _IN_BLOCK.fullmatch(name)
    if block and block[2] in _BLOCK:
        return f"model.layers.{block[1]}.{_BLOCK[block[2]]}.weight"
    return _TOP.get(name, name)


def _in_order(name: str, weight: Tensor, config: ModelConfig) -> Tensor:
    """Undo GGUF's pairwise rotary order of query and key rows: ours is half-split."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return weight
    heads = weight.shape[0] // config.head_dim
    pairs = torch.unflatten(weight, 0, (heads, config.head_dim // 2, 2))
    return pairs.transpose(1, 2).flatten(0, 2)


def _tokenizer(keys: dict[str, Any], where: str) -> PreTrainedTokenizerFast:
    tokens: list[str] = keys["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in keys["tokenizer.ggml.merges"]]
    bpe = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    kind = keys.get("tokenizer.ggml.pre")
    if kind == "smollm":
        # Digits first: otherwise "  12" is cut as " " and " 12", as the model never saw it.
        digits = pre_tokenizers.Digits(individual_digits=True)
        bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    elif kind == "gpt-2":
        bpe.pre_tokenizer = bytes_
    else:
        raise ConversionError(f"{where}: tokenizer.ggml.pre = {kind!r}; known: smollm, gpt-2")
    bpe.decoder = decoders.ByteLevel()
    types = keys["tokenizer.ggml.token_type"]
    control = [token for token, type_ in zip(tokens, types, strict=True) if type_ == _CONTROL]
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    named = {
        role: tokens[keys[f"tokenizer.ggml.{key}_token_id"]]
        for role, key in roles.items()
        if f"tokenizer.ggml.{key}_token_id" in keys
    }
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, clean_up_tokenization_spaces=False, **named
    )
    tokenizer.chat_template = keys.get("tokenizer.chat_template")
    tokenizer.model_max_length = keys["llama.context_length"]
    return tokenizer
