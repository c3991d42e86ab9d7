"""SFT: only replies are learned, bad records are counted, any of our folders can be the base."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from pretrain_core.chat import IM_END
from pretrain_core.data import IGNORED, Loader, Quarantine, StoreError, TokenStore
from pretrain_core.data.peek import peek
from pretrain_core.runs import Run, RunSettings
from pretrain_core.sft import SftSettings, build_sft_store, sft
from pretrain_core.sft.data import read_conversations
from pretrain_core.train.checkpoint import CheckpointError, newest

GOOD = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say yes"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "Again"},
        {"role": "assistant", "content": "yes yes"},
    ]
}
BAD = [
    {"messages": [{"role": "assistant", "content": "no user"}]},
    {"messages": [{"role": "user", "content": "hi"}]},
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}]},
    {"prompt": "x"},
    {"messages": "hi"},
]


def write(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + "not json\n")
    return path


def test_targets_are_the_replies_and_their_ends(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    source = write(tmp_path / "a.jsonl", [BAD[0], GOOD, *BAD[1:]])
    quarantine = Quarantine()
    store = build_sft_store(
        read_conversations([source], quarantine), tokenizer, tmp_path / "s", quarantine
    )
    assert store.documents == 1
    reasons = {record.line: record.reason for record in quarantine.records}
    assert sorted(reasons) == [1, 3, 4, 5, 6, 7]
    assert "no user turn" in reasons[1]
    assert "no assistant turn" in reasons[3]
    assert "message 1: the assistant turn is empty" in reasons[4]
    assert "no list under 'messages'" in reasons[5]
    (batch,) = Loader(store, sequences=1, length=256, seed=1).step().batches
    targets = [t for t in batch.targets.tolist() if t != IGNORED]
    assert tokenizer.decode(targets) == f"yes{IM_END}yes yes{IM_END}"


def test_peek_marks_what_is_learned(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    source = write(tmp_path / "a.jsonl", [BAD[0], GOOD])
    (first, nothing), (_, shown) = peek(source, tokenizer, 0, 2, 1000)
    assert nothing == []
    assert "a.jsonl:1: not usable: the conversation has no user turn" in first
    assert [text for text, learn in shown if learn] == [f"yes{IM_END}", f"yes yes{IM_END}"]
    quarantine = Quarantine()
    records = read_conversations([source], quarantine)
    path = build_sft_store(records, tokenizer, tmp_path / "s", quarantine).path
    ((title, stored),) = peek(path, tokenizer, 0, 5, 1000)
    assert stored == shown
    assert title.startswith("document 0 of 1")


def test_no_usable_conversation_is_an_error(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    source = write(tmp_path / "a.jsonl", BAD)
    quarantine = Quarantine()
    with pytest.raises(StoreError, match="no documents"):
        build_sft_store(
            read_conversations([source], quarantine), tokenizer, tmp_path / "s", quarantine
        )


def test_sft_starts_from_a_folder_a_run_or_a_checkpoint(tmp_path: Path, model_folder: Path) -> None:
    source = write(tmp_path / "a.jsonl", [GOOD] * 20)
    settings = {
        "init": model_folder,
        "data": {"sources": [source], "held_out_share": 0.2},
        "batch": {"sequences": 2, "length": 64},
        "optimiser": {"lr": 3e-3},
        "steps": 12,
        "dtype": "float32",
        "peak_tflops": 1.0,
    }
    run = Run.create(RunSettings(root=tmp_path, name="first"), None, kind="sft")
    folder = sft(SftSettings.model_validate(settings), run)
    rows = run.metrics()
    assert rows[-1]["train/loss"] < rows[0]["train/loss"] / 2
    assert run.manifest["quarantined"] == 1
    assert run.manifest["result"]["held_out_loss"] < rows[0]["train/loss"]
    assert (folder / "tokenizer_config.json").is_file()

    checkpoint = newest(run.checkpoints)
    assert checkpoint is not None
    starts = []
    for name, init in (("run", run.path), ("folder", folder), ("checkpoint", checkpoint)):
        given = {**settings, "init": init, "tokenizer": folder, "steps": 1}
        again = Run.create(RunSettings(root=tmp_path, name=name), None, kind="sft")
        sft(SftSettings.model_validate(given), again)
        starts.append(again.metrics()[0]["train/loss"])
    assert starts[0] == starts[1] == starts[2]
    assert starts[0] < rows[0]["train/loss"] / 2
    store = TokenStore.open(again.path / "data" / "sft.tokens")
    assert store.masked

    with pytest.raises(CheckpointError, match="no weights here"):
        sft(SftSettings.model_validate({**settings, "init": tmp_path}), run)
