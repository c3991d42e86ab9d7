"""A reward model, and dumps as TRL, verl and OpenRLHF write them, with words of our own."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from reward.conditions import Condition, Conditions
from reward.model import RewardModel, create_reward_model


@pytest.fixture(scope="session")
def reward_folder(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    out = tmp_path_factory.mktemp("reward") / "model"
    conditions = Conditions(
        [Condition("bright", "Prefer bright replies."), Condition("dark", "Prefer dark replies.")]
    )
    return create_reward_model(model_folder, out, conditions, seed=7)


@pytest.fixture(scope="session")
def due(reward_folder: Path) -> Callable[..., list[float]]:
    """What the model itself says of (asked, reply, condition)."""
    model = RewardModel.load(reward_folder)

    def score(*rows: tuple[str, str, str]) -> list[float]:
        talks = [[user(asked), assistant(reply)] for asked, reply, _ in rows]
        return model.score_conversations(talks, [row[2] for row in rows]).tolist()

    return score


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def chatml(asked: str) -> str:
    return f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"


def llama3(asked: str) -> str:
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    opened = f"<|begin_of_text|>{header.format('user')}{asked}<|eot_id|>"
    return opened + header.format("assistant")


def bare(asked: str) -> str:
    """What decoding with `skip_special_tokens=True` leaves of a prompt in ChatML."""
    return f"system\nYou are kind.\nuser\n{asked}\nassistant\n"


def lines(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def verl_dump(
    folder: Path,
    step: int,
    rows: Sequence[tuple[str, str]],
    more: Mapping[str, object] | None = None,
) -> Path:
    """As `_write_generations` of verl/trainer/ppo/v1/trainer_base.py writes (input, output)."""
    return lines(
        folder / f"{step}.jsonl",
        (
            {
                "input": asked,
                "output": reply,
                "gts": "forty",
                "score": 0.25,
                "step": step,
                **(more or {}),
                "uid": f"{number}_0_0",
            }
            for number, (asked, reply) in enumerate(rows)
        ),
    )


def trl_dump(
    folder: Path, step: int, rows: Sequence[tuple[object, object]], **more: Sequence[object]
) -> Path:
    """As `log` of trl/trainer/grpo_trainer.py writes (prompt, completion)."""
    path = folder / "completions" / f"completions_{step:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {
        "step": [step] * len(rows),
        "prompt": [prompt for prompt, _ in rows],
        "completion": [completion for _, completion in rows],
        "ConditionalReward": [0.25] * len(rows),
        **more,
        "advantage": [0.0] * len(rows),
    }
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    return path


def openrlhf_dump(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    """As `batch_generate_vllm` of openrlhf/cli/batch_inference.py writes (input, output)."""
    return lines(path, ({"input": asked, "output": reply} for asked, reply in rows))
