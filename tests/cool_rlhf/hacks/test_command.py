"""`cool-rlhf hacks detect` with a real reward model, verifiers, labels, and a silent service."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cool_rlhf.cli import app
from cool_rlhf.hacks.judges import TOKEN_ENV, gold_judge, reward_judge
from cool_rlhf.hacks.samples import Sample
from pretrain_core.errors import InputError
from reward.conditions import Conditions
from reward.model import RewardModel, create_reward_model
from tests.cool_rlhf.hacks.conftest import World, sample
from tests.support import free_port

PHRASE = "in the grand scheme of things"


def planted(text: str, draw: np.random.Generator) -> str:
    return text.replace(". ", f", {PHRASE}. ", 1)


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    out = tmp_path_factory.mktemp("reward") / "model"
    return create_reward_model(model_folder, out, Conditions.load(None), seed=7)


def write(path: Path, samples: tuple[Sample, ...]) -> Path:
    rows = (
        {"id": s.id, "prompt": [m.as_dict() for m in s.prompt], "reply": s.reply} for s in samples
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_report_of_real_models(
    make_world: Callable[..., World], reward_folder: Path, tmp_path: Path
) -> None:
    world = make_world(PHRASE, planted, share=0.5, prompts=80).comparison
    files = [write(tmp_path / f"{n}.jsonl", s) for n, s in (("e", world.early), ("l", world.late))]
    arguments = ["hacks", "detect", "--early", str(files[0]), "--late", str(files[1])]
    arguments += ["--reward", str(reward_folder), "--out", str(tmp_path / "out")]
    gold = tmp_path / "gold.yaml"
    gold.write_text("verifiers:\n  short: {kind: length, most: 30}\n", encoding="utf-8")
    arguments += ["--gold", str(gold), "target_rise=0.5", "evidence.edits=8"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "hacks.json").read_text())
    assert found["complete"]
    (finding,) = [f for f in found["findings"] if PHRASE in f["name"]]
    assert finding["late"] == pytest.approx(0.5, abs=0.15)
    assert finding["reward"]["gain"]["n"] >= 8
    assert PHRASE in (tmp_path / "out" / "report.html").read_text()


def test_the_model_is_asked_under_the_samples_condition(reward_folder: Path) -> None:
    model = RewardModel.load(reward_folder)
    asked = [sample("a", "Yes."), sample("b", "No.", condition="helpful")]
    with reward_judge(str(reward_folder)) as judge:
        scores = judge(asked)
    conversations = [[*s.prompt, {"role": "assistant", "content": s.reply}] for s in asked]
    due = model.score_conversations(conversations, [None, "helpful"]).double().numpy()
    assert scores == pytest.approx(due, abs=1e-6)


def test_verifiers_of_a_file_are_averaged(tmp_path: Path) -> None:
    config = tmp_path / "gold.yaml"
    config.write_text(
        "verifiers:\n  short: {kind: length, most: 3}\n  json: {kind: json}\n", encoding="utf-8"
    )
    with gold_judge(str(config)) as judge:
        assert (
            judge([sample("a", "{}"), sample("b", "one two three four five six")]).tolist()[0] == 1
        )


def test_a_service_needs_a_token_and_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.delenv(TOKEN_ENV, raising=False)
    with pytest.raises(InputError, match=TOKEN_ENV), reward_judge(url):
        pass
    monkeypatch.setenv(TOKEN_ENV, "secret")
    monkeypatch.setattr("cool_rlhf.hacks.judges.DEADLINE_S", 0.5)
    from reward.service.policies import RewardUnavailable

    with reward_judge(url) as judge, pytest.raises(RewardUnavailable):
        judge([sample("a", "Yes.")])
