import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from reward import export as module
from reward.card import Calibration, RewardModelError, read_card
from reward.cli import app
from reward.conditions import Conditions
from reward.export import ExportError, export_reward_model, sample_inputs, write_calibrated
from reward.inputs import InputTooLong
from reward.model import RewardModel, create_reward_model
from reward.model_card import ModelCardError, model_card
from reward.vllm_scoring import scores_in_child

TALK = [
    {"role": "user", "content": "Say it."},
    {"role": "assistant", "content": "A stone, and\n\na river. "},
]


def interval(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high, "n": 40}


def metrics_of(version: str) -> dict[str, object]:
    return {
        "version": version,
        "accuracy": {
            "all": {"m": interval(0.8, 0.7, 0.9), "other": interval(0.1, 0.0, 0.2)},
            "condition dark": {"m": interval(0.55, 0.45, 0.65)},
        },
        "probes": [
            {"name": "answer repeated", "expected": "not up", "verdict": "not as expected"},
            {"name": "trailing spaces", "expected": "same", "verdict": "as expected"},
        ],
    }


@pytest.fixture(scope="module")
def exported(reward_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model"
    return export_reward_model(reward_folder, out, metrics_of(read_card(reward_folder).version))


def test_transformers_alone_scores_the_export(exported: Path, reward_folder: Path) -> None:
    """What a stranger does who follows the README: no code of ours."""
    model = RewardModel.load(reward_folder)
    network = AutoModelForSequenceClassification.from_pretrained(exported, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    for name in ("bright", "dark", "default"):
        prompt = model.conditions.get(name).system_prompt
        system = [{"role": "system", "content": prompt}] if prompt else []
        inputs = tokenizer.apply_chat_template(
            [*system, *TALK], return_tensors="pt", return_dict=True
        )
        assert inputs["input_ids"][0].tolist() == model.input(TALK, name)
        with torch.no_grad():
            theirs = network(**inputs).logits.item()
        assert theirs == pytest.approx(model.score_conversations([TALK], [name]).item(), abs=1e-4)
    again = RewardModel.load(exported)
    assert again.version == model.version
    assert again.input(TALK, "dark") == model.input(TALK, "dark")


def test_vllm_scores_an_export_with_tied_embeddings_and_added_tokens(
    model_folder: Path, conditions: Conditions, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(model_folder, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    raw = json.loads((base / "tokenizer.json").read_text())
    raw["added_tokens"] = [t for t in raw["added_tokens"] if t["content"] != "<|score|>"]
    vocab = raw["model"]["vocab"]
    vocab["unused"] = vocab.pop("<|score|>")
    (base / "tokenizer.json").write_text(json.dumps(raw))
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings.pop("added_tokens_decoder", None)
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    folder = create_reward_model(base, tmp_path / "rm", conditions, seed=3, max_length=256)
    model = RewardModel.load(folder)
    assert model.network.get_input_embeddings().num_embeddings == 513
    with torch.no_grad():  # far from zero, so that a sigmoid or a wrong place would show
        model.network.score.weight.mul_(20)
    loud = model.save(tmp_path / "loud")

    out = export_reward_model(loud, tmp_path / "out")
    inputs = [*sample_inputs(model), [*model.input(TALK, "dark")[:200]]]
    expected = model.score(inputs)
    assert float(expected.abs().max()) > 1.5
    found = torch.tensor(scores_in_child(out, inputs, 256))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_scores_that_differ_make_no_export(
    reward_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nearly(folder: Path, inputs: list[list[int]]) -> torch.Tensor:
        return RewardModel.load(folder).score(inputs) + 2e-4

    monkeypatch.setattr(module, "_scores_by_transformers", nearly)
    with pytest.raises(ExportError, match=r"by up to 0\.0002"):
        export_reward_model(reward_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_of_short_inputs_is_exported_too(
    model_folder: Path, conditions: Conditions, tmp_path: Path
) -> None:
    def short(length: int) -> Path:
        name = tmp_path / f"rm{length}"
        return create_reward_model(model_folder, name, conditions, seed=1, max_length=length)

    assert (export_reward_model(short(48), tmp_path / "out") / "README.md").is_file()
    with pytest.raises(InputTooLong, match="max_length is 16"):
        export_reward_model(short(16), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_export_refuses_a_broken_model_and_a_full_folder(
    reward_folder: Path, model_folder: Path, exported: Path, tmp_path: Path
) -> None:
    with pytest.raises(RewardModelError, match="no reward model"):
        export_reward_model(model_folder, tmp_path / "out")
    with pytest.raises(RewardModelError, match="not empty"):
        export_reward_model(reward_folder, exported)
    with pytest.raises(ModelCardError, match="the metrics are of rm-x"):
        export_reward_model(reward_folder, tmp_path / "out", metrics_of("rm-x"))
    assert not (tmp_path / "out").exists()


def test_the_model_card(exported: Path, conditions: Conditions) -> None:
    found = ModelCard.load(exported / "README.md")
    assert found.data.library_name == "transformers"
    results = {r.dataset_name: r.metric_value for r in found.data.eval_results or []}
    assert results == {
        "held-out preferences, all": 0.8,
        "held-out preferences, condition dark": 0.55,
    }
    text = found.text
    for expected in (
        conditions.hash,
        "| dark |  | Prefer dark replies. |",
        "| condition dark | 40 | 0.550 | [0.450, 0.650] |",
        "On condition dark the interval includes 0.5",
        "Probe “answer repeated” (not up expected): not as expected.",
        "Not calibrated",
        "<|score|>",
    ):
        assert expected in text
    assert "trailing spaces" not in text
    assert "On all the interval" not in text
    assert str(exported.parent) not in text


def test_a_card_without_metrics_says_so_and_one_with_calibration_too(
    reward_folder: Path, tmp_path: Path
) -> None:
    assert "Not evaluated" in model_card(read_card(reward_folder))
    card = write_calibrated(reward_folder, tmp_path / "cal", Calibration(2.0, 0.5, 40, "abc"))
    text = model_card(card, metrics_of(read_card(reward_folder).version))
    assert "2 · (score − 0.5), fitted on 40 pairs" in text
    with pytest.raises(ModelCardError, match="no metrics of"):
        model_card(card, {"accuracy": 0.5})
    twice = write_calibrated(tmp_path / "cal", tmp_path / "again", Calibration(3.0, 0.5, 40))
    assert twice.version.count("+") == 1
    assert read_card(tmp_path / "again") == twice


def test_export_from_the_command_line(reward_folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["export", str(reward_folder), str(tmp_path / "out")], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert "agree with transformers within 1e-4" in " ".join(done.output.split())
    assert "Not evaluated" in (tmp_path / "out" / "README.md").read_text()
