import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from reward.cli import app
from reward.data import Preference, PreferenceError, PreferenceSet, write_preferences
from reward.inputs import InputTooLong
from reward.model import RewardModel
from reward.quality.report import Ruler, check

Make = Callable[..., Preference]


def held(records: list[Preference]) -> PreferenceSet:
    return PreferenceSet(records, [], origins=[f"f:{n + 1}" for n in range(len(records))])


def test_the_report_counts_what_is_there(make_pair: Make) -> None:
    records = [
        make_pair("long reply", "b", prompt="x", condition="bright", annotator="ann", source="s"),
        make_pair("long reply", "b", prompt="x", condition="bright", annotator="ann"),
        make_pair("b", "long reply", prompt="x", condition="bright", annotator="bob"),
        make_pair("b", "long reply", prompt="x", condition="dark"),
        make_pair("c", "d", prompt="y"),
    ]
    report = check([("f", held(records))], Ruler())
    assert report.counts["condition"] == {"bright": 3, "dark": 1, "(none)": 1}
    assert report.counts["annotator"] == {"ann": 2, "(none)": 2, "bob": 1}
    assert (report.prompts, report.repeated_prompts, report.most_pairs) == (2, 1, 4)
    assert report.duplicates == [["f:1", "f:2"]]
    assert report.contradictions == [["f:1", "f:2", "f:3"]]
    assert report.unit == "characters"
    assert report.lengths["chosen"] == {"mean": 4.6, "median": 1.0, "p95": 10.0, "max": 10.0}
    wins = {group: found.mean for group, found in report.longer_wins.items()}
    assert wins["condition bright"] == pytest.approx(2 / 3)
    assert (wins["condition dark"], wins["condition default"]) == (0.0, 0.5)
    assert wins["all"] == pytest.approx(2.5 / 5)
    assert json.loads(json.dumps(report.as_dict()))["prompts"]["most_pairs"] == 4


def test_no_usable_record_is_refused() -> None:
    with pytest.raises(PreferenceError, match="no usable preference"):
        check([("f", held([]))], Ruler())


@pytest.mark.parametrize("limit", [24, 40, 60, 100])
def test_over_long_is_what_the_reward_model_would_cut_or_refuse(
    reward_folder: Path, make_pair: Make, limit: int
) -> None:
    model = RewardModel.load(reward_folder)
    model.card = type(model.card)(model.conditions, limit)
    records = [
        make_pair("a " * n, "b", prompt="p " * m, condition=c)
        for n, m, c in ((2, 3, "bright"), (30, 3, "dark"), (2, 40, None), (20, 20, "bright"))
    ]
    ruler = Ruler(model.tokenizer, limit, model.conditions)
    report = check([("f", held(records))], ruler)
    refused, cut = [], []
    for number, p in enumerate(records, start=1):
        try:
            whole = [ruler.head(p.condition) + 1 + ruler.length([*p.prompt, *side])
                     for side in (p.chosen, p.rejected)]  # fmt: skip
            made = [
                len(model.input([*p.prompt, *side], p.condition)) for side in (p.chosen, p.rejected)
            ]
        except InputTooLong:
            refused.append(f"f:{number}")
            continue
        if made != whole:
            cut.append(f"f:{number}")
    assert report.over_long is not None
    assert (report.over_long.replies, report.over_long.prompts) == (refused, cut)
    assert report.unit == "tokens"


def test_convert_and_check_from_the_command_line(tmp_path: Path, make_pair: Make) -> None:
    source, out, report = tmp_path / "a.json", tmp_path / "pairs.jsonl", tmp_path / "report.json"
    rows = [
        {"instruction": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(20)
    ]
    source.write_text(json.dumps([*rows, {"instruction": "q", "chosen": "x", "rejected": "x"}]))
    runner = CliRunner()
    arguments = ["data", "convert", str(source), str(out), "--condition", "helpful"]
    done = runner.invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "20 preferences" in done.output
    aside = json.loads((tmp_path / "pairs.quarantined.jsonl").read_text())
    assert (aside["line"], aside["kind"]) == (21, "identical sides")
    arguments = ["data", "check", str(out), "--out", str(report), "--top", "3", "--folds", "2"]
    done = runner.invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(report.read_text())
    assert found["counts"]["condition"] == {"helpful": 20}
    assert found["noise"]["accuracy"]["mean"] == 1.0
    assert len(found["noise"]["suspects"]) == 3


def test_the_command_line_refuses_what_has_no_effect(
    tmp_path: Path, make_pair: Make, tokenizer_folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    file = write_preferences(tmp_path / "p.jsonl", [make_pair("a", "b")])
    done = CliRunner().invoke(app, ["data", "check", str(file), "--max-length", "9"])
    assert done.exit_code == 2
    arguments = ["--folds", "0", "--tokenizer", str(tokenizer_folder), "--max-length", "9"]
    done = CliRunner().invoke(app, ["data", "check", str(file), *arguments])
    assert done.exit_code == 0, done.output
    assert "length in tokens" in done.output
