"""The gate of a round: a child on few held-out pairs is not promoted, whatever it got right."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cool_rlhf.online.reward_round import gate_reward_model
from cool_rlhf.online.settings import GateSettings
from pretrain_core.runs import StopSignal
from reward.conditions import Condition, Conditions
from reward.model import create_reward_model


def write(path: Path, count: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as out:
        for number in range(count):
            sides = {
                side: [{"role": role, "content": f"{side} {number}"}]
                for side, role in (("prompt", "user"), ("chosen", "assistant"))
            } | {"rejected": [{"role": "assistant", "content": f"no {number}"}]}
            for condition in ("brief", "detailed"):
                out.write(json.dumps({**sides, "condition": condition}) + "\n")
    return path


@pytest.mark.parametrize(("margin", "verdict"), [(0.02, "undecided"), (0.3, "pass")])
def test_an_unchanged_child(
    model_folder: Path, tmp_path: Path, margin: float, verdict: str
) -> None:
    conditions = Conditions([Condition("brief", "Be brief."), Condition("detailed", "Say all.")])
    parent = create_reward_model(model_folder, tmp_path / "1" / "rm", conditions, seed=7)
    write(tmp_path / "1" / "pairs" / "labels.jsonl", 4)
    context: Any = SimpleNamespace(
        settings=SimpleNamespace(
            gate=GateSettings(margin=margin),
            run=SimpleNamespace(seed=0),
            sample=SimpleNamespace(held_out_share=0.5),
        ),
        held_out_preferences=write(tmp_path / "old.jsonl", 20),
        folder=lambda number: tmp_path / str(number),
        newest_reward_model=lambda number: parent,
    )
    gate_reward_model(context, 1, StopSignal("resume"))
    found = json.loads((tmp_path / "1" / "gate.json").read_text())
    assert (found["verdict"], found["promoted"]) == (verdict, verdict == "pass")
    assert {"old", "old, brief", "old, detailed"} <= set(found["comparisons"])
    old = found["comparisons"]["old"]
    assert (old["mean"], old["n"], old["clusters"]) == (0.0, 40, 20)
