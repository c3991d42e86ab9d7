"""The parts together: readings of the conditions, the command line, the page."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from reward.card import read_card
from reward.cli import app
from reward.conditions import UnknownCondition
from reward.data import Preference, PreferenceError, write_preferences
from reward.evaluation import EvaluationError, pair_scores
from reward.evaluation.evaluate import PER_CONDITION, WRONG, evaluate
from reward.evaluation.page import evaluation_page
from reward.evaluation.scoring import reworded, scorable, scores_per_condition
from reward.model import RewardModel

Maker = Callable[..., Preference]
Opposed = Callable[[int, int], list[Preference]]
Scripted = Callable[..., Any]


@pytest.fixture(scope="module")
def model(reward_folder: Path) -> RewardModel:
    return RewardModel.load(reward_folder)


@pytest.fixture
def perfect(scripted: Scripted) -> Any:
    """Knows which word each condition wants, and nothing of `default`."""
    wanted = {"bright": "sun", "dark": "night"}
    return scripted(lambda p, reply, name: float(wanted.get(name, "-") in reply.split()))


def test_other_wording_is_another_input_of_the_same_network(
    model: RewardModel, opposed: Opposed
) -> None:
    records = opposed(6, 0)
    variant = reworded(model, {"bright": "Prefer the sunny reply."})
    assert variant.network is model.network
    assert variant.input(records[0].prompt + records[0].chosen, "bright") != model.input(
        records[0].prompt + records[0].chosen, "bright"
    )
    trained, other = pair_scores(model, records), pair_scores(variant, records)
    assert (trained.chosen[0::2] != other.chosen[0::2]).all()
    assert trained.chosen[1::2] == pytest.approx(other.chosen[1::2], abs=1e-6)
    with pytest.raises(EvaluationError, match="'default' has no system prompt"):
        reworded(model, {"default": "x"})


def test_the_readings_of_a_perfect_model(perfect: Any, opposed: Opposed) -> None:
    records = opposed(20, 0)
    found = evaluate({"m": perfect}, records, per_condition={"bright": perfect, "dark": perfect})
    accuracy = {name: i.mean for name, i in found.accuracy.accuracy["all"].items()}
    assert accuracy == {"m": 1.0, PER_CONDITION: 1.0, WRONG: 0.0}
    assert [(c.labels.mean, c.model.mean) for c in found.conflicts] == [(1.0, 1.0)]


def test_rewordings_are_measured_against_the_trained_prompts(
    model: RewardModel, opposed: Opposed
) -> None:
    records = opposed(12, 0)
    found = evaluate(
        {"m": model},
        records,
        paraphrases={
            "bright": ("Prefer sunny replies.", "Choose light."),
            "dark": ("Prefer gloomy replies.",),
            "unused": ("x",),
        },
        unseen={"dark": "Prefer the reply about the sky.", "absent": "y"},
    )
    assert [(r.name, r.accuracy.n) for r in found.rewordings] == [
        ("paraphrase 1", 24),
        ("paraphrase 2", 24),
        ("paraphrases, pooled", 48),
        ("unseen dark", 12),
    ]
    by_hand = pair_scores(
        reworded(model, {"dark": "Prefer the reply about the sky."}), records[1::2]
    )
    trained = pair_scores(model, records[1::2])
    last = found.rewordings[-1]
    assert last.accuracy.mean == pytest.approx(by_hand.right.mean())
    assert last.difference.mean == pytest.approx((by_hand.right - trained.right).mean())
    assert last.flipped.mean == pytest.approx((by_hand.right != trained.right).mean())


def test_a_condition_without_its_own_model_is_named(perfect: Any, opposed: Opposed) -> None:
    with pytest.raises(EvaluationError, match="no model for condition dark"):
        scores_per_condition({"bright": perfect}, opposed(2, 0))


def test_pairs_too_long_for_any_model_are_left_out_of_all(
    scripted: Scripted, make_pair: Maker
) -> None:
    short = scripted(lambda *_: 0.0, longest=5)
    long = scripted(lambda *_: 0.0)
    records = [make_pair("aa", "bb"), make_pair("a" * 9, "b", id="x")]
    kept, left_out = scorable([long, short], records)
    assert kept == records[:1]
    assert [(q.line, q.raw) for q in left_out] == [(2, "x")]
    assert evaluate({"m": short}, records).left_out == 1
    with pytest.raises(PreferenceError, match="no preferences to evaluate on; the first"):
        evaluate({"m": short}, records[1:])


def test_the_page_is_self_contained_and_escapes(scripted: Scripted, opposed: Opposed) -> None:
    model = scripted(lambda p, reply, name: len(reply) % 7 - 3.0)
    model.version = "<rm>"
    text = evaluation_page(evaluate({"<m>": model}, opposed(12, 0), probes=True), "A & <b>")
    assert "<m>" not in text
    assert "<rm>" not in text
    assert not re.search(r"https?:|src=|url\((?!#)", text)
    assert text.count("<svg") >= 6
    assert "robustness probes" in text.lower()


def labelled_by(model: RewardModel, records: list[Preference], flips: int) -> list[Preference]:
    """Pairs labelled as the model does, except every `flips`-th judged pair."""
    out = []
    for index, (p, margin) in enumerate(
        zip(records, pair_scores(model, records).margins, strict=True)
    ):
        swap = (margin < 0) != (index % flips == 0)
        sides = (p.rejected, p.chosen) if swap else (p.chosen, p.rejected)
        out.append(Preference(p.prompt, *sides, condition=p.condition, source=p.source))
    return out


def test_eval_and_calibrate_from_the_command_line(
    model: RewardModel, reward_folder: Path, tmp_path: Path, opposed: Opposed
) -> None:
    records = labelled_by(model, opposed(20, 3), flips=5)
    file = write_preferences(tmp_path / "pairs.jsonl", records)
    new = Preference(records[0].prompt, records[0].chosen, records[0].rejected, condition="calm")
    with file.open("a") as lines:
        lines.write(json.dumps(new.as_dict()) + "\n")
    runner = CliRunner()

    calibrated = tmp_path / "calibrated"
    done = runner.invoke(
        app, ["calibrate", str(reward_folder), str(file), str(calibrated)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    card = read_card(calibrated)
    assert card.calibration is not None
    assert card.calibration.pairs == 40
    assert card.version.startswith(model.version + "+c")
    assert card.parents["calibrated from"] == model.version
    loaded = RewardModel.load(calibrated)
    talk = [*records[0].prompt, *records[0].chosen]
    raw = loaded.score_conversations([talk], ["bright"])
    assert raw == pytest.approx(model.score_conversations([talk], ["bright"]))
    scale, centre = card.calibration.scale, card.calibration.centre
    assert card.calibrated(raw).item() == pytest.approx(scale * (raw.item() - centre))
    assert read_card(loaded.save(tmp_path / "saved")).calibration is None

    out, page = tmp_path / "eval.json", tmp_path / "eval.html"
    arguments = ["eval", str(calibrated), str(file), "--against", str(reward_folder)]
    arguments += ["--per-condition", f"bright={reward_folder}"]
    arguments += ["--per-condition", f"dark={reward_folder}"]
    arguments += ["--per-condition", f"calm={reward_folder}"]
    arguments += ["--unseen", "calm=Prefer calm replies.", "--probes"]
    arguments += ["--html", str(page), "--out", str(out)]
    done = runner.invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    assert report["version"] == card.version
    first, *others = report["accuracy"]["all"]
    assert first == f"calibrated ({card.version})"
    assert PER_CONDITION in others
    assert report["accuracy"]["condition bright"][first]["mean"] == pytest.approx(0.8)
    assert [r["name"] for r in report["rewordings"]] == ["unseen calm"]
    raw_error, mended = (
        report["reliability"][name]["error"]["mean"] for name in (first, f"{first}, calibrated")
    )
    assert mended != raw_error
    assert {p["name"] for p in report["probes"]} >= {"trailing spaces", "another prompt"}
    assert page.read_text().startswith("<!doctype html>")


def test_paraphrases_from_a_file(reward_folder: Path, tmp_path: Path, opposed: Opposed) -> None:
    file = write_preferences(tmp_path / "pairs.jsonl", opposed(5, 3))
    wordings = tmp_path / "wordings.yaml"
    wordings.write_text("paraphrases:\n  bright: [Prefer sunny replies., Choose the light one.]\n")
    out = tmp_path / "out.json"
    arguments = ["eval", str(reward_folder), str(file), "--paraphrases-file", str(wordings)]
    done = CliRunner().invoke(app, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())["rewordings"]
    assert [(r["name"], r["accuracy"]["n"]) for r in found] == [
        ("paraphrase 1", 5),
        ("paraphrase 2", 5),
        ("paraphrases, pooled", 10),
    ]
    wordings.write_text("paraphrases:\n  brihgt: [a, b]\n")
    with pytest.raises(UnknownCondition, match="bright"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (["--unseen", "calm"], "expected NAME=VALUE"),
        (["--per-condition", "a=b", "--per-condition", "a=c"], "given twice"),
        (["--against", "SAME"], "the same model is given twice"),
    ],
)
def test_arguments_of_eval_are_checked(
    reward_folder: Path, tmp_path: Path, opposed: Opposed, extra: list[str], reason: str
) -> None:
    file = write_preferences(tmp_path / "pairs.jsonl", opposed(2, 0))
    extra = [str(reward_folder) if e == "SAME" else e for e in extra]
    done = CliRunner().invoke(app, ["eval", str(reward_folder), str(file), *extra])
    assert done.exit_code == 2
    assert reason in " ".join(done.output.replace("│", " ").split())


def test_a_benchmark_from_the_command_line(reward_folder: Path, tmp_path: Path) -> None:
    cases = [
        {"prompt": f"Go {n}.", "chosen": "a stone", "rejected": "b tree", "subset": "hep-go"}
        for n in range(4)
    ]
    file, out = tmp_path / "set.json", tmp_path / "out.json"
    file.write_text(json.dumps([*cases, {"prompt": "x"}]))
    done = CliRunner().invoke(
        app,
        ["benchmark", str(reward_folder), str(file), "--condition", "dark", "--out", str(out)],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    assert (report["shape"], report["left_out"], report["condition"]) == ("RewardBench", 1, "dark")
    model = RewardModel.load(reward_folder)
    talks = [
        [{"role": "user", "content": c["prompt"]}, {"role": "assistant", "content": c[side]}]
        for side in ("chosen", "rejected")
        for c in cases
    ]
    scores = model.score_conversations(talks, ["dark"] * 8).numpy()
    expected = float(np.mean(scores[:4] > scores[4:]))
    assert report["accuracy"]["hep-go"]["mean"] == expected
