"""The configuration class of InternLM2 for transformers, which vLLM lacks; no remote code."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig


class InternLM2Config(PreTrainedConfig):
    """Keys of the released InternLM2 config.json files."""

    model_type = "internlm2"
    keys_to_ignore_at_inference = ("past_key_values",)

    vocab_size: int = 92_544
    hidden_size: int = 4096
    intermediate_size: int = 14_336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 32_768
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-5
    use_cache: bool = True
    bias: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False
    rope_parameters: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill what depends on another key."""
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        super().__post_init__(**kwargs)


def register_internlm2() -> None:
    """Make `AutoConfig` know `model_type: internlm2`; calling it again changes nothing."""
    AutoConfig.register(InternLM2Config.model_type, InternLM2Config, exist_ok=True)
