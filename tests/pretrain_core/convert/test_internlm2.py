"""The configuration class that vLLM's processes get from our plug-in."""

import json
from pathlib import Path

from transformers import AutoConfig

from actors.rollout.plugin import register

# The keys of a released folder, which also points to remote code.
RELEASED = {
    "architectures": ["InternLM2ForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
    "bias": False,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 32768,
    "model_type": "internlm2",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "vocab_size": 92544,
}


def test_a_released_config_is_read_without_remote_code(tmp_path: Path) -> None:
    register()
    register()
    (tmp_path / "config.json").write_text(json.dumps(RELEASED))
    config = AutoConfig.from_pretrained(tmp_path, trust_remote_code=False)
    assert type(config).__module__ == "pretrain_core.convert.internlm2"
    assert config.rope_parameters["rope_theta"] == 1_000_000
    assert (config.num_key_value_heads, config.eos_token_id) == (8, 2)


def test_silent_keys_get_the_releases_defaults(tmp_path: Path) -> None:
    register()
    (tmp_path / "config.json").write_text('{"model_type": "internlm2"}')
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.num_key_value_heads, config.hidden_act, config.bias) == (32, "silu", False)
