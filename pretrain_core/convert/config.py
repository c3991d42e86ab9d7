"""Shapes of models as Hugging Face writes them in config.json, and back."""

from collections.abc import Mapping
from typing import Any

from pretrain_core.convert.names import ConversionError, Layout
from pretrain_core.model import ModelConfig

ARCHITECTURES: dict[Layout, str] = {
    "llama": "LlamaForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
}
# What each layout assumes where its config.json is silent.
_DEFAULT_ROPE_BASE = 10_000.0
_DEFAULT_NORM_EPS = 1e-6
_DEFAULT_MAX_POSITIONS = 2048


def to_hf_config(config: ModelConfig, layout: Layout, dtype: str) -> dict[str, Any]:
    """The contents of config.json for weights of `dtype` (`float32`, `bfloat16`)."""
    bias = {"attention_bias": False, "mlp_bias": False} if layout == "llama" else {"bias": False}
    return {
        "architectures": [ARCHITECTURES[layout]],
        "model_type": layout,
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        # The older spelling of the same number, for readers that know only it.
        "rope_theta": config.rope_base,
        "tie_word_embeddings": config.tied,
        "initializer_range": 0.02,
        "use_cache": True,
        **bias,
    }


def from_hf_config(raw: Mapping[str, Any], where: str) -> tuple[ModelConfig, Layout]:
    """Our shape and the weights' layout; `where` names the file in errors.

    Raises ConversionError for what our model cannot express, naming the key and its value.
    """
    layout = raw.get("model_type")
    if layout not in ("llama", "internlm2"):
        raise ConversionError(f"{where}: model_type {layout!r}; only llama and internlm2 are read")
    try:
        hidden, heads = int(raw["hidden_size"]), int(raw["num_attention_heads"])
        config = ModelConfig(
            vocab_size=raw["vocab_size"],
            hidden=hidden,
            layers=raw["num_hidden_layers"],
            heads=heads,
            kv_heads=raw.get("num_key_value_heads") or heads,
            ffn=raw["intermediate_size"],
            rope_base=_rope_base(raw, where),
            norm_eps=raw.get("rms_norm_eps", _DEFAULT_NORM_EPS),
            tied=raw.get("tie_word_embeddings", False),
            max_positions=raw.get("max_position_embeddings", _DEFAULT_MAX_POSITIONS),
        )
    except KeyError as missing:
        raise ConversionError(f"{where}: key {missing} is missing") from missing
    supported: dict[str, tuple[object, ...]] = {
        "hidden_act": (None, "silu"),
        "attention_bias": (None, False),
        "mlp_bias": (None, False),
        "bias": (None, False),
        "head_dim": (None, config.head_dim),
        "quantization_config": (None,),
    }
    for key, values in supported.items():
        if raw.get(key) not in values:
            raise ConversionError(
                f"{where}: {key} = {raw[key]!r} is not supported; it must be {values[-1]!r}"
            )
    return config, layout


def _rope_base(raw: Mapping[str, Any], where: str) -> float:
    scaling = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    # Dynamic scaling differs from none only beyond max_positions, which our model refuses.
    if kind not in ("default", "dynamic"):
        raise ConversionError(f"{where}: rope scaling {kind!r} is not supported, only 'default'")
    return float(scaling.get("rope_theta", raw.get("rope_theta", _DEFAULT_ROPE_BASE)))
