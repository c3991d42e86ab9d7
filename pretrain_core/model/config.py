"""Shape of a model: the report's sizes (Table 3) and small ones for laptops and tests."""

import difflib
from typing import Self

from pydantic import Field, model_validator

from pretrain_core.settings import Settings, SettingsError


class ModelConfig(Settings):
    """Shape of one InternLM2-style decoder; `hidden` and `ffn` are widths, counts are integers."""

    vocab_size: int = Field(gt=0)
    hidden: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    ffn: int = Field(gt=0)
    rope_base: float = Field(default=1e6, gt=1.0)
    norm_eps: float = Field(default=1e-5, gt=0.0)
    tied: bool = False
    max_positions: int = Field(default=32768, gt=0)

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not a multiple of heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"hidden / heads is {self.head_dim}: rotary positions need it even")
        return self

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def queries_per_group(self) -> int:
        """Query heads that share one key/value head."""
        return self.heads // self.kv_heads

    @property
    def parameters(self) -> int:
        """Number of trained weights, counted without building the model."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        block = attention + 3 * self.hidden * self.ffn + 2 * self.hidden
        embeddings = self.vocab_size * self.hidden * (1 if self.tied else 2)
        return self.layers * block + embeddings + self.hidden


def _report(layers: int, hidden: int, heads: int, ffn: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=92_544, hidden=hidden, layers=layers, heads=heads, kv_heads=8, ffn=ffn
    )


PRESETS: dict[str, ModelConfig] = {
    "1.8b": _report(layers=24, hidden=2048, heads=16, ffn=8192),
    "7b": _report(layers=32, hidden=4096, heads=32, ffn=14_336),
    "20b": _report(layers=48, hidden=6144, heads=48, ffn=16_384),
    "tiny": ModelConfig(
        vocab_size=4096,
        hidden=256,
        layers=6,
        heads=4,
        kv_heads=2,
        ffn=704,
        rope_base=1e4,
        max_positions=2048,
    ),
    # Heads of 32: vLLM's CPU attention knows no narrower ones.
    "nano": ModelConfig(
        vocab_size=512,
        hidden=128,
        layers=2,
        heads=4,
        kv_heads=2,
        ffn=256,
        rope_base=1e4,
        max_positions=512,
    ),
}


def preset(name: str) -> ModelConfig:
    """The named shape (case does not matter); raises SettingsError listing the known names."""
    found = PRESETS.get(name.lower())
    if found is None:
        close = difflib.get_close_matches(name.lower(), PRESETS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise SettingsError(f"model preset {name!r} is not one of {', '.join(PRESETS)}{hint}")
    return found
