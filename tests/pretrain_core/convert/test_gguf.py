"""GGUF files, written here by the format's own library and read by transformers for comparison."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from pretrain_core.convert import ConversionError, import_gguf
from pretrain_core.convert.names import to_hf
from pretrain_core.model import ModelConfig, Transformer, preset, shifted
from tests.support import randomise

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name.replace("model.layers.", "blk.")


def paired(weight: Tensor, head_dim: int) -> Tensor:
    """The order of the format: rotary partners side by side."""
    heads = weight.shape[0] // head_dim
    return weight.view(heads, 2, head_dim // 2, -1).transpose(1, 2).reshape(weight.shape)


def write(
    path: Path, model: Transformer, tokenizer: PreTrainedTokenizerFast, **changes: Any
) -> Path:
    config, writer = model.config, gguf.GGUFWriter(path, changes.pop("architecture", "llama"))
    writer.add_block_count(config.layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden)
    writer.add_feed_forward_length(config.ffn)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())
    control = {token["content"] for token in bpe["added_tokens"]}
    tokens = sorted(bpe["model"]["vocab"], key=bpe["model"]["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(changes.pop("pre", "gpt-2"))
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in control else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in bpe["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    for key, value in changes.items():
        writer.add_string(key.replace("__", "."), value)
    for name, tensor in to_hf(model.state_dict(), config, "llama").items():
        rotary = name.endswith(("q_proj.weight", "k_proj.weight"))
        weight = paired(tensor, config.head_dim) if rotary else tensor
        writer.add_tensor(gguf_name(name), weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def lively(**changes: object) -> Transformer:
    model = Transformer(ModelConfig(**{**preset("nano").model_dump(), **changes}))
    randomise(model)
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_weights_shape_and_tokenizer_come_back(
    tied: bool, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    # 2^-17 is exact in fp32, in which the format keeps epsilon.
    model = lively(tied=tied, rope_base=50_000.0, norm_eps=2.0**-17)
    back, copied = import_gguf(write(tmp_path / "model.gguf", model, tokenizer))
    assert back.config == model.config
    state = back.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    text = "<|im_start|>user\nTwo  words, 3 signs: äß漢<|im_end|>"
    assert copied(text).input_ids == tokenizer(text).input_ids
    assert copied.decode(copied(text).input_ids) == text
    assert (copied.eos_token, copied.pad_token) == (tokenizer.eos_token, tokenizer.pad_token)
    assert copied.chat_template == tokenizer.chat_template


def test_transformers_reads_the_same_file_with_our_logprobs(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    write(tmp_path / "model.gguf", lively(), tokenizer)
    ours, _ = import_gguf(tmp_path / "model.gguf")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32
    )
    tokens, bounds = torch.randint(512, (40,)), torch.tensor([0, 40])
    with torch.no_grad():
        expected = shifted(theirs(input_ids=tokens[None]).logits[0], tokens, bounds)
        found = shifted(ours(tokens, bounds), tokens, bounds)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_digits_are_cut_before_spaces_where_the_file_says_smollm(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = write(tmp_path / "model.gguf", lively(), tokenizer, pre="smollm")
    _, copied = import_gguf(path)
    pieces = copied.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
    assert [piece for piece, _ in pieces] == ["a", "ĠĠ", "1", "2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gpt2"}, r"general\.architecture = 'gpt2' is not supported"),
        ({"llama__rope__scaling__type": "yarn"}, r"llama\.rope\.scaling\.type = 'yarn'"),
        ({"pre": "qwen2"}, r"tokenizer\.ggml\.pre = 'qwen2'; known: smollm, gpt-2"),
    ],
)
def test_what_we_cannot_read_is_refused_by_key(
    changes: dict[str, str], message: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = write(tmp_path / "model.gguf", lively(), tokenizer, **changes)
    with pytest.raises(ConversionError, match=message):
        import_gguf(path)
