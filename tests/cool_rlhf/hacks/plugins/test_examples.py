"""The examples of docs/plugins.md, run as they stand there."""

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import trl

from cool_rlhf.hacks.plugins import read_source
from cool_rlhf.hacks.samples import read_samples
from tests.cool_rlhf.hacks.plugins.conftest import chatml, lines, user

PAGE = Path(__file__).parents[4] / "docs" / "plugins.md"
LINES = 20
Due = Callable[..., list[float]]


def example(title: str) -> str:
    """The first block of Python under a heading."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    assert found[1].count("\n") <= LINES
    return found[1]


@pytest.fixture
def here(
    tmp_path: Path, model_folder: Path, reward_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The folder of a user: a policy, a reward model, prompts."""
    shutil.copytree(model_folder, tmp_path / "policy")
    shutil.copytree(reward_folder, tmp_path / "reward-model")
    rows = [
        {"prompt": [user(f"What is {n} + {n}?")], "condition": "bright" if n % 2 else "dark"}
        for n in range(8)
    ]
    lines(tmp_path / "prompts.jsonl", rows)
    (tmp_path / "gold.yaml").write_text("verifiers:\n  short: {kind: length, most: 30}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(file: Path, title: str) -> ModuleType:
    """A file with the example, loaded as both frameworks do: by its path."""
    file.write_text(example(title), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("custom_module", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_trl(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 8,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }
    monkeypatch.setattr(trl, "GRPOConfig", partial(trl.GRPOConfig, **small))
    names: dict[str, object] = {}
    exec(compile(example("TRL"), "plugins.md", "exec"), names)
    trainer, reward = names["trainer"], names["reward"]
    logged = trainer.state.log_history[0]  # type: ignore[attr-defined]
    dumped = read_source("trl:out@1-2").records
    assert len(dumped) == 8
    assert {s.condition for s in dumped} <= {"bright", "dark"}
    first = read_source("trl:out@1").records
    scores = reward.judge(first)  # type: ignore[attr-defined]
    assert logged["rewards/ConditionalReward/mean"] == pytest.approx(scores.mean(), abs=1e-4)
    # Two steps of two prompts each: too few to compare, but they are kept for later.
    kept = read_samples(here / "found" / "early.jsonl").records
    assert {s.id for s in kept} == {s.id for s in dumped}


def test_verl(here: Path, due: Due) -> None:
    compute_score = partial(load(here / "reward.py", "verl").compute_score)
    result = compute_score(
        data_source="arithmetic",
        solution_str="Eight, the sun.",
        ground_truth="8",
        extra_info={
            "split": "train",
            "index": 4,
            "condition": "bright",
            "prompt": [user("What is 4 + 4?")],
            "num_turns": 2,
            "rollout_reward_scores": {},
        },
    )
    assert result["score"] == pytest.approx(
        due(("What is 4 + 4?", "Eight, the sun.", "bright"))[0], abs=1e-5
    )
    assert json.loads(result["prompt"]) == [user("What is 4 + 4?")]


def test_openrlhf(here: Path, due: Due) -> None:
    reward_func = load(here / "reward.py", "OpenRLHF").reward_func
    prompt = chatml("What is 4 + 4?")
    found = reward_func([f"{prompt}Eight.<|im_end|>"], [prompt], ["dark"])
    assert found["rewards"].flatten()[0].item() == pytest.approx(
        due(("What is 4 + 4?", "Eight.", "dark"))[0], abs=1e-5
    )
