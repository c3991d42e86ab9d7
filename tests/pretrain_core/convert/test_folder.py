"""Hugging Face folders: what we write others read alike, what others write we read alike."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from pretrain_core.convert import (
    ConversionError,
    export_internlm2,
    export_llama,
    export_state,
    folder,
    import_hf,
)
from pretrain_core.model import Transformer, logprobs_of, preset, shifted
from tests.support import randomise, run_python

Export = Callable[[Transformer, PreTrainedTokenizerFast, Path], Path]


def lively(**changes: object) -> Transformer:
    model = Transformer(preset("nano").model_copy(update=changes))
    randomise(model)
    return model


def draw(count: int = 3, length: int = 24) -> Tensor:
    return torch.randint(512, (count, length), generator=torch.Generator().manual_seed(5))


def our_logprobs(model: Transformer, batch: Tensor) -> Tensor:
    tokens = batch.flatten()
    bounds = torch.arange(0, len(tokens) + 1, batch.shape[1])
    with torch.no_grad():
        return shifted(model(tokens, bounds), tokens, bounds).view_as(batch)[:, 1:]


def their_logprobs(path: Path, batch: Tensor) -> Tensor:
    model = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        return logprobs_of(model(input_ids=batch).logits[:, :-1], batch[:, 1:])


@pytest.mark.parametrize("changes", [{}, {"tied": True}, {"rope_base": 50_000.0}])
def test_transformers_reads_our_export_with_our_logprobs(
    changes: dict[str, object], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model, batch = lively(**changes), draw()
    export_llama(model, tokenizer, tmp_path)
    ours = our_logprobs(model, batch)
    assert ours.std() > 1, "flat logits would prove nothing"
    torch.testing.assert_close(ours, their_logprobs(tmp_path, batch), atol=1e-4, rtol=0)


def test_we_read_a_folder_of_transformers_with_its_logprobs(model_folder: Path) -> None:
    batch = draw()
    ours = our_logprobs(import_hf(model_folder), batch)
    torch.testing.assert_close(ours, their_logprobs(model_folder, batch), atol=1e-4, rtol=0)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("export", [export_llama, export_internlm2])
def test_a_round_trip_is_bit_exact(
    export: Export, tied: bool, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = lively(tied=tied, rope_base=50_000.0)
    back = import_hf(export(model, tokenizer, tmp_path))
    assert back.config == model.config
    state = back.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in back.parameters())
    assert tied == (back.output.weight is back.tok_embeddings.weight)


def test_export_halves_on_request_and_import_restores_the_dtype_asked_for(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = lively()
    state = model.state_dict()
    export_state(state, model.config, tokenizer, tmp_path, "llama", torch.bfloat16)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    for dtype, expected in ((torch.float32, torch.float32), (None, torch.bfloat16)):
        back = import_hf(tmp_path, dtype).state_dict()
        assert {tensor.dtype for tensor in back.values()} == {expected}
        name = "layers.0.attention.wqkv.weight"
        assert torch.equal(back[name].bfloat16(), state[name].bfloat16())


def test_large_weights_are_split_into_shards(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "MAX_SHARD_SIZE", "200KB")
    model, batch = lively(), draw()
    export_llama(model, tokenizer, tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    ours = our_logprobs(import_hf(tmp_path), batch)
    assert torch.equal(ours, our_logprobs(model, batch))
    torch.testing.assert_close(ours, their_logprobs(tmp_path, batch), atol=1e-4, rtol=0)
    min(tmp_path.glob("model-*.safetensors")).unlink()
    with pytest.raises(ConversionError, match="has no model-00001"):
        import_hf(tmp_path)


def test_the_tokenizer_travels_along(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    export_internlm2(lively(), tokenizer, tmp_path)
    copied = AutoTokenizer.from_pretrained(tmp_path)
    assert copied.chat_template == tokenizer.chat_template
    text = "<|im_start|>user\nHow many? 12<|im_end|>"
    assert copied(text).input_ids == tokenizer(text).input_ids
    written = json.loads((tmp_path / "generation_config.json").read_text())
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert set(written["eos_token_id"]) == ends


def test_a_tokenizer_larger_than_the_model_is_refused(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError, match="512 tokens, the model 500 embeddings"):
        export_llama(lively(vocab_size=500), tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'; only llama and internlm2"),
        ({"attention_bias": True}, "attention_bias = True is not supported"),
        ({"head_dim": 99}, "head_dim = 99 is not supported; it must be"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported; it must be 'silu'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope scaling 'yarn' is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"intermediate_size": 130}, r"w1\.weight has shape \(\d+, \d+\).*asks for \(130,"),
        ({"hidden_size": None}, "key 'hidden_size' is missing"),
    ],
)
def test_what_our_model_cannot_express_is_refused_by_key(
    change: dict[str, object], message: str, model_folder: Path, tmp_path: Path
) -> None:
    raw = json.loads((model_folder / "config.json").read_text())
    raw = {key: value for key, value in {**raw, **change}.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (tmp_path / "model.safetensors").symlink_to(model_folder / "model.safetensors")
    with pytest.raises(ConversionError, match=message):
        import_hf(tmp_path)


def test_older_spellings_of_the_rope_base_are_read(model_folder: Path, tmp_path: Path) -> None:
    raw = json.loads((model_folder / "config.json").read_text())
    raw.pop("rope_parameters")
    raw.update(rope_theta=50_000.0, rope_scaling={"type": "dynamic", "factor": 2.0})
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (tmp_path / "model.safetensors").symlink_to(model_folder / "model.safetensors")
    assert import_hf(tmp_path).config.rope_base == 50_000.0


def test_a_folder_without_model_or_with_pickles_only_is_refused(
    model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError, match=r"has no config\.json"):
        import_hf(tmp_path)
    (tmp_path / "config.json").write_text((model_folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConversionError, match=r"safetensors only, never from pickled"):
        import_hf(tmp_path)


def test_a_weight_of_another_model_is_named(model_folder: Path, tmp_path: Path) -> None:
    weights = load_file(model_folder / "model.safetensors")
    weights["model.layers.7.mlp.up_proj.weight"] = torch.zeros(1)
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((model_folder / "config.json").read_text())
    with pytest.raises(ConversionError, match=r"not understood model\.layers\.7\.mlp"):
        import_hf(tmp_path)


def test_models_and_conversion_load_no_engine() -> None:
    code = (
        "import sys, pretrain_core.model, pretrain_core.convert\n"
        "print(sorted({'ray', 'vllm', 'deepspeed', 'trl'} & sys.modules.keys()))"
    )
    outcome = run_python(code)
    assert outcome.stdout.strip() == "[]", outcome.stderr
