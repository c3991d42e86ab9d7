"""Two gloo ranks under torchrun against one process: gradients, course, checkpoints, command."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
import yaml

from pretrain_core.data import build_store
from pretrain_core.runs import Run
from pretrain_core.train.pretrain import load_tokenizer

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    build_store(list(topics.values())[:20], load_tokenizer(tokenizer_folder), folder / "text")
    settings = {
        "run": {"root": str(folder / "runs")},
        "model": {"preset": "nano", "hidden": 64, "ffn": 128},
        "tokenizer": {"folder": str(tokenizer_folder)},
        "data": {"store": str(folder / "text")},
        "batch": {"sequences": 4, "length": 64, "micro_sequences": 2},
        "optimiser": {"lr": 1e-3},
        "checkpoint": {"interval": 2, "keep": 2},
        "dtype": "float32",
        "steps": 4,
        "peak_tflops": 1.0,
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def launch(ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [sys.executable, *(start if ranks > 1 else []), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=200, env=environment, check=False
    )


def test_two_ranks_give_the_gradients_of_one(config: Path, tmp_path: Path) -> None:
    results = []
    for ranks in (1, 2):
        out = tmp_path / f"gradients-{ranks}.pt"
        done = launch(ranks, str(HERE / "gradients.py"), str(config), str(out))
        assert done.returncode == 0, done.stderr
        results.append(torch.load(out))
    one, two = results
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert one["gradients"].keys() == two["gradients"].keys()
    for name, expected in one["gradients"].items():
        error = (two["gradients"][name] - expected).norm() / expected.norm()
        assert error < 1e-5, name


def test_the_command_on_two_ranks_trains_as_one_and_resumes_as_one(config: Path) -> None:
    arguments = ("-m", "pretrain_core", "train", str(config))
    done = launch(2, *arguments, "run.name=two")
    assert done.returncode == 0, done.stderr
    assert "2 ranks × 1 micro-batches × 2 rows" in done.stdout
    two = Run.open(config.parent / "runs" / "two")
    assert str(two.path / "export") in done.stdout

    done = launch(1, *arguments, "run.name=one")
    assert done.returncode == 0, done.stderr
    one = Run.open(config.parent / "runs" / "one")
    assert_same_course(one, two)

    # The state of two ranks, half-way, continued by one process.
    shutil.rmtree(two.checkpoints / "step-00000004")
    done = launch(1, *arguments, "run.name=two", "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_course(one, two)


def assert_same_course(one: Run, two: Run) -> None:
    for a, b in zip(one.metrics(), two.metrics(), strict=True):
        assert a["train/loss"] == pytest.approx(b["train/loss"], rel=1e-5)
        assert a["train/grad_norm"] == pytest.approx(b["train/grad_norm"], rel=1e-4)
        assert a["train/tokens"] == b["train/tokens"]
