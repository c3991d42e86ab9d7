"""The command line in process: errors in one line, conversions, peeks, perplexity."""

import json
import re
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from pretrain_core import cli
from pretrain_core.data import build_store
from pretrain_core.evaluate import evaluate_loss
from pretrain_core.runs import Run
from pretrain_core.train.pretrain import load_tokenizer

Printed = pytest.CaptureFixture[str]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of the command."""
    monkeypatch.setattr(sys, "argv", ["pretrain-core", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "configs/pretrain/tiny.yaml"], "data.sources: corpus.txt: no such file"),
        (["train", "configs/pretrain/tiny.yaml", "stepz=3"], "did you mean 'steps'"),
        (["sft", "configs/sft/tiny.yaml"], "init: base: no such file"),
        (["train", "nowhere.yaml"], "nowhere.yaml"),
        (["eval", "perplexity", "x", "y.tokens"], "y.tokens: no such token store"),
        (["convert", "export", "nothing", "new"], "nothing: no weights here"),
    ],
)
def test_a_users_error_is_one_line_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: Printed,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *arguments) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert said in printed
    assert list(tmp_path.iterdir()) == []


def test_help_is_grouped(monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    assert call(monkeypatch, "--help") == 0
    printed = capsys.readouterr().out
    for word in ("Training", "Models", "Data and settings", "train", "sft", "convert", "config"):
        assert word in printed


def test_train_then_convert_evaluate_and_peek(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokenizer_folder: Path, capsys: Printed
) -> None:
    source = tmp_path / "a.jsonl"
    texts = [text for text in topics.values() if text][:12]
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = tmp_path / "c.yaml"
    config.write_text(
        f"run: {{root: {tmp_path / 'runs'}, name: a}}\n"
        "model: {preset: nano, hidden: 64, ffn: 128}\n"
        f"tokenizer: {{folder: {tokenizer_folder}}}\n"
        f"data: {{sources: [{source}]}}\n"
        "batch: {sequences: 2, length: 32}\nsteps: 2\npeak_tflops: 1\n"
    )
    assert call(monkeypatch, "config", "check", "train", str(config)) == 0
    assert call(monkeypatch, "config", "show", "train", str(config), "steps=3") == 0
    assert re.search(r"^steps: 3 +# override", capsys.readouterr().out, re.MULTILINE)
    assert call(monkeypatch, "train", str(config)) == 0
    printed = capsys.readouterr().out
    export = tmp_path / "runs" / "a" / "export"
    assert "2 rows × 32 = 64 tokens" in printed
    assert f"init={export}" in printed
    # The same name again is refused; with --resume it is found to be complete.
    assert call(monkeypatch, "train", str(config)) == 1
    assert "resume" in capsys.readouterr().err
    assert call(monkeypatch, "train", str(config), "--resume") == 0
    assert len(Run.open(export.parent).metrics()) == 2

    store = build_store(texts[:2], load_tokenizer(tokenizer_folder), tmp_path / "s.tokens")
    other = tmp_path / "internlm2"
    arguments = ["convert", "export", str(export.parent), str(other), "--layout", "internlm2"]
    assert call(monkeypatch, *arguments) == 0
    back = tmp_path / "back"
    assert call(monkeypatch, "convert", "import", str(other), str(back)) == 0
    assert call(monkeypatch, "convert", "import", str(other), str(back)) == 1
    losses = {evaluate_loss(folder, store, 500, 32).loss for folder in (export, other, back)}
    assert len(losses) == 1
    capsys.readouterr()
    arguments = ["eval", "perplexity", str(back), str(store.path), "--max-tokens", "500"]
    assert call(monkeypatch, *arguments, "--length", "32") == 0
    assert f"loss {losses.pop():.4f} nats/token" in capsys.readouterr().out
    peeked = ["data", "peek", str(store.path), "--tokenizer", str(back), "--tokens", "20"]
    assert call(monkeypatch, *peeked) == 0
    assert "document 1 of 2" in capsys.readouterr().out
