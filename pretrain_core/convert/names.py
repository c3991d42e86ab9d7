"""Names and layouts of weights: ours, Hugging Face Llama's, Hugging Face InternLM2's (report §2.2).

Our names are InternLM2's without the leading `model.`; Llama keeps query, key and value apart.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from pretrain_core.errors import InputError
from pretrain_core.model import ModelConfig

Layout = Literal["llama", "internlm2"]

_TOP = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
_BLOCK = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_WQKV = re.compile(r"layers\.(\d+)\.attention\.wqkv\.weight")


class ConversionError(InputError):
    """A model folder or state cannot be converted as it is."""


def split_wqkv(wqkv: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Rows `[kv_heads · (g + 2) · d, hidden]`, per group `[q_0 … q_{g-1}, k, v]`, → q, k, v."""
    parts = (config.kv_heads, config.queries_per_group + 2, config.head_dim)
    groups = torch.unflatten(wqkv, 0, parts)
    query, key, value = torch.split(groups, [config.queries_per_group, 1, 1], dim=1)
    return query.flatten(0, 2), key.flatten(0, 2), value.flatten(0, 2)


def fuse_wqkv(query: Tensor, key: Tensor, value: Tensor, config: ModelConfig) -> Tensor:
    """Inverse of `split_wqkv`: `[heads · d, hidden]`, twice `[kv_heads · d, hidden]` → fused."""
    grouped = [
        torch.unflatten(part, 0, (config.kv_heads, -1, config.head_dim))
        for part in (query, key, value)
    ]
    return torch.cat(grouped, dim=1).flatten(0, 2)


def to_hf(state: Mapping[str, Tensor], config: ModelConfig, layout: Layout) -> dict[str, Tensor]:
    """Our state dict under the names of `layout`; a tied head is left out, as both formats do."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if config.tied and name == "output.weight":
            continue
        fused = _WQKV.fullmatch(name)
        if layout == "llama" and fused:
            parts = zip(_qkv_names(fused[1]), split_wqkv(tensor, config), strict=True)
            # Cloned: views of one storage cannot be written as safetensors.
            result.update((part, weight.clone().contiguous()) for part, weight in parts)
        else:
            result[_rename(name, layout)] = tensor
    return result


def from_hf(
    state: Mapping[str, Tensor], config: ModelConfig, layout: Layout, names: Iterable[str]
) -> dict[str, Tensor]:
    """Our state dict with exactly `names` out of one in `layout`.

    Raises ConversionError naming every missing and every superfluous weight.
    """
    rest = {name: t for name, t in state.items() if not name.endswith("rotary_emb.inv_freq")}
    result: dict[str, Tensor] = {}
    missing: list[str] = []
    for name in names:
        tied_head = config.tied and name == "output.weight"
        sources = _sources("tok_embeddings.weight" if tied_head else name, layout)
        absent = [source for source in sources if source not in state]
        missing += absent
        if not absent:
            weights = [state[source] for source in sources]
            result[name] = _joined(weights, config)
        for source in (*sources, *_sources(name, layout)):
            rest.pop(source, None)
    if missing or rest:
        raise ConversionError(
            f"the weights do not fit the {layout} layout: missing {_some(missing)}; "
            f"not understood {_some(list(rest))}"
        )
    return result


def _joined(weights: list[Tensor], config: ModelConfig) -> Tensor:
    if len(weights) == 1:
        return weights[0]
    query, key, value = weights
    return fuse_wqkv(query, key, value, config)


def _sources(name: str, layout: Layout) -> tuple[str, ...]:
    fused = _WQKV.fullmatch(name)
    return _qkv_names(fused[1]) if layout == "llama" and fused else (_rename(name, layout),)


def _qkv_names(layer: str) -> tuple[str, str, str]:
    stem = f"model.layers.{layer}.self_attn"
    return f"{stem}.q_proj.weight", f"{stem}.k_proj.weight", f"{stem}.v_proj.weight"


def _rename(name: str, layout: Layout) -> str:
    if layout == "internlm2":
        return name if name.startswith("output.") else f"model.{name}"
    module = name.removesuffix(".weight")
    if module in _TOP:
        return f"{_TOP[module]}.weight"
    _, layer, part = module.split(".", 2)
    return f"model.layers.{layer}.{_BLOCK[part]}.weight"


def _some(names: list[str], limit: int = 6) -> str:
    shown = ", ".join(names[:limit]) or "none"
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
