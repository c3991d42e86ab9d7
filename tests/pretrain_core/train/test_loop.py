"""The loop on a nano model: it learns, resumes bit for bit, stops cleanly, refuses NaN."""

import json
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from safetensors.torch import load_file

from pretrain_core.convert import export_llama, import_hf
from pretrain_core.data import TokenStore, build_store
from pretrain_core.evaluate import evaluate_loss
from pretrain_core.runs import Run, RunSettings, Stopped, StopSignal
from pretrain_core.train import NonFiniteError, TrainSettings, train
from pretrain_core.train.checkpoint import CheckpointError, newest
from pretrain_core.train.job import JobError
from pretrain_core.train.pretrain import load_tokenizer


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stores")
    tokenizer = load_tokenizer(tokenizer_folder)
    texts = list(topics.values())
    build_store(texts[:30], tokenizer, folder / "text")
    build_store(texts[30:33], tokenizer, folder / "held_out")
    return folder / "text", folder / "held_out"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Two threads that wait for each other on busy cores take ten times as long at this size.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def base(stores: tuple[Path, Path], tokenizer_folder: Path) -> dict[str, object]:
    return {
        "model": {"preset": "nano", "hidden": 64, "ffn": 128},
        "tokenizer": {"folder": tokenizer_folder},
        "data": {"store": stores[0], "held_out": stores[1]},
        "batch": {"sequences": 4, "length": 64},
        "optimiser": {"lr": 3e-3, "warmup": 0.1},
        "checkpoint": {"interval": 4},
        "dtype": "float32",
        "steps": 8,
        "peak_tflops": 1.0,
        "held_out_tokens": 2000,
    }


def new_run(tmp_path: Path, name: str) -> Run:
    return Run.create(RunSettings(root=tmp_path, name=name), None, kind="train")


def losses(run: Run) -> list[float]:
    return [row["train/loss"] for row in run.metrics()]


class StopAt(StopSignal):
    """Asks for a stop after some steps, as a signal would."""

    def __init__(self, checks: int) -> None:
        super().__init__("resume me")
        self.checks = checks

    @property
    def requested(self) -> bool:  # type: ignore[override]
        self.checks -= 1
        return self.checks < 0

    @requested.setter
    def requested(self, value: bool) -> None:
        pass


def test_it_learns_reports_and_exports(tmp_path: Path, base: dict[str, object]) -> None:
    run = new_run(tmp_path, "a")
    settings = TrainSettings.model_validate({**base, "steps": 30, "dtype": "bfloat16"})
    folder = train(settings, run)
    rows = run.metrics()
    assert rows[-1]["train/loss"] < rows[0]["train/loss"] - 1.0
    assert [row["step"] for row in rows] == list(range(30))
    assert rows[-1]["train/lr"] == pytest.approx(3e-4)
    assert rows[-1]["perf/mfu"] > 0
    result = run.manifest["result"]
    store = TokenStore.open(settings.data.held_out)  # type: ignore[arg-type]
    assert evaluate_loss(folder, store, 2000, 64).loss == result["held_out_loss"]
    assert result["held_out_loss"] < rows[0]["train/loss"] - 0.7
    # The checkpoint holds the same model as the export.
    path = newest(run.checkpoints)
    assert path is not None
    assert evaluate_loss(path, store, 2000, 64).loss == result["held_out_loss"]


def test_stop_and_resume_equal_an_uninterrupted_run_bit_for_bit(
    tmp_path: Path, base: dict[str, object]
) -> None:
    settings = TrainSettings.model_validate(base)
    whole = new_run(tmp_path, "whole")
    expected = load_file(train(settings, whole) / "model.safetensors")
    run = new_run(tmp_path, "parts")
    with pytest.raises(Stopped, match="130"):
        train(settings, run, stop=StopAt(3))
    assert len(run.metrics()) == 3
    # A kill while saving leaves a partial folder, and metrics of steps that are lost.
    (run.checkpoints / ".step-00000007.partial").mkdir()
    run.log(3, {"train/loss": 99.0})
    found = load_file(train(settings, Run.open(run.path)) / "model.safetensors")
    assert losses(run) == losses(whole)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [p.name for p in run.checkpoints.iterdir() if p.name[0] != "."] == ["step-00000008"]
    # Nothing is left to do: a further call exports the same model again.
    assert len(Run.open(run.path).metrics()) == 8
    train(settings, Run.open(run.path))
    assert losses(run) == losses(whole)


def test_micro_batches_do_not_change_loss_or_gradient(
    tmp_path: Path, base: dict[str, object]
) -> None:
    rows = []
    for micro in (4, 1):
        run = new_run(tmp_path, f"micro-{micro}")
        batch = {"sequences": 4, "length": 64, "micro_sequences": micro}
        train(TrainSettings.model_validate({**base, "steps": 2, "batch": batch}), run)
        rows.append(run.metrics())
    for one, other in zip(*rows, strict=True):
        assert one["train/loss"] == pytest.approx(other["train/loss"], rel=1e-5)
        assert one["train/grad_norm"] == pytest.approx(other["train/grad_norm"], rel=1e-4)


def test_a_loss_that_is_not_finite_names_step_and_documents(
    tmp_path: Path, base: dict[str, object], tokenizer_folder: Path
) -> None:
    run = new_run(tmp_path, "healthy")
    folder = train(TrainSettings.model_validate({**base, "steps": 1}), run)
    model = import_hf(folder)
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    broken = export_llama(model, load_tokenizer(tokenizer_folder), tmp_path / "broken")
    bad = new_run(tmp_path, "bad")
    settings = TrainSettings.model_validate({**base, "init": broken})
    with pytest.raises(NonFiniteError, match=r"step 0: the loss is nan .* documents \d+"):
        train(settings, bad)
    assert bad.metrics() == []
    assert newest(bad.checkpoints) is None


def test_a_time_budget_ends_the_schedule_and_is_kept_over_a_resume(
    tmp_path: Path, base: dict[str, object]
) -> None:
    settings = TrainSettings.model_validate({**base, "steps": 10**6, "max_seconds": 0.5})
    run = new_run(tmp_path, "timed")
    train(settings, run)
    rows = run.metrics()
    assert 0 < len(rows) < 10**6
    assert rows[-1]["train/progress"] > rows[0]["train/progress"]
    train(settings, Run.open(run.path))
    assert run.metrics() == rows


def test_resuming_with_other_settings_is_refused(tmp_path: Path, base: dict[str, object]) -> None:
    run = new_run(tmp_path, "a")
    train(TrainSettings.model_validate({**base, "steps": 1}), run)
    other = TrainSettings.model_validate({**base, "steps": 2, "optimiser": {"lr": 1e-5}})
    with pytest.raises(CheckpointError, match=r"optimiser: saved .*; steps: saved 1, now 2"):
        train(other, Run.open(run.path))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"batch": {"sequences": 4, "length": 1024}}, "above max_positions 512"),
        ({"model": {"preset": "nano", "vocab_size": 300}}, "made with 512 tokens"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_training(
    tmp_path: Path, base: dict[str, object], changed: dict[str, object], said: str
) -> None:
    with pytest.raises(JobError, match=said):
        train(TrainSettings.model_validate({**base, **changed}), new_run(tmp_path, "a"))


def test_text_files_alone_are_enough(tmp_path: Path, base: dict[str, object]) -> None:
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": t}) + "\n" for t in topics.values()) + "{\n")
    data = {"sources": [source], "held_out_share": 0.1}
    tokenizer = {"vocab_size": 400}
    run = new_run(tmp_path, "a")
    plans: list[str] = []
    settings = TrainSettings.model_validate(
        {**base, "data": data, "tokenizer": tokenizer, "steps": None, "epochs": 0.01}
    )
    folder = train(settings, run, announce=plans.extend)
    assert len(load_tokenizer(folder)) == 400
    assert run.manifest["quarantined"] == 1
    assert any(line.startswith("batch: 4 rows × 64 = 256 tokens") for line in plans)
    assert any("epochs)" in line for line in plans)
