"""Reports of whole, bare and broken run directories."""

import re
from pathlib import Path

import pytest

from cool_rlhf.report import compose
from cool_rlhf.report.curves import curves_of, grouped
from pretrain_core.runs import Run, RunError, RunSettings, write_json
from tests.cool_rlhf.report.synthetic import online_run


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    run = online_run(tmp_path_factory.mktemp("runs"))
    path = compose(run.path)
    assert path == run.path / "report.html"
    return run, path.read_text(encoding="utf-8")


def test_a_whole_run_shows_every_part(composed: tuple[Run, str]) -> None:
    run, text = composed
    titles = re.findall(r"<h2[^>]*>([^<]*)</h2>", text)
    assert titles == [
        *["Stages", "Samples", "Rounds", "Round 1", "Round 2"],
        *["Wall time", "Warnings", "Configuration", "Lineage"],
    ]
    assert "rollout engine: vLLM" in text
    assert "+0.316 [0.240, 0.391]" in text
    assert "tiny.yaml:3" in text
    assert "override optimiser.betas" in text
    assert run.manifest["parents"]["sft"]["sha256"] in text
    assert "reward model gate: undecided" in text
    assert "2 prompts were longer than the context" in text
    assert "round 1: ppo" in text
    assert "could not be read" not in text


def test_the_page_is_self_contained_and_runs_nothing(composed: tuple[Run, str]) -> None:
    _, text = composed
    assert "<script" not in text
    assert not re.search(r"https?://|src=|@import", text)


def test_charts_lead_with_the_objectives(composed: tuple[Run, str]) -> None:
    _, text = composed
    labels = re.findall(r'aria-label="([^"]*)"', text)
    # Two rounds side by side, then each round by itself.
    assert labels.count("objective/scores") == 3
    round_one = labels[3:]
    assert [label.split("/")[0] for label in round_one[:7]] == [
        *["objective"] * 3,
        "policy",
        *["loss"] * 3,
    ]
    assert "timing_s" in round_one
    # A constant is a number, not a picture.
    assert "policy/learning_rate" not in labels
    assert "policy/learning_rate" in text


def test_the_same_run_gives_the_same_bytes(composed: tuple[Run, str]) -> None:
    run, text = composed
    assert compose(run.path).read_text(encoding="utf-8") == text


def test_groups_keep_unknown_prefixes_after_known_ones() -> None:
    rows = [{"step": 1, "zeta/a": 1.0, "loss/x": 2.0, "lonely": 3.0}, {"step": 0, "loss/x": 1.0}]
    groups = grouped(curves_of(rows))
    assert list(groups) == ["loss", "other", "zeta"]
    assert groups["loss"]["loss/x"] == [(0, 1.0), (1, 2.0)]


def test_an_empty_directory_gets_plain_sentences(tmp_path: Path) -> None:
    text = compose(tmp_path).read_text(encoding="utf-8")
    for sentence in (
        "No stage table was written",
        "No samples were written",
        "No metrics were logged",
        "No phase was timed",
        "manifest.json is missing",
        "without a saved configuration",
        "started from no earlier artefact",
    ):
        assert sentence in text
    with pytest.raises(RunError, match="no run directory"):
        compose(tmp_path / "nowhere")


def test_broken_files_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    with Run.create(RunSettings(root=tmp_path, name="a"), None, kind="ppo") as run:
        run.record(engine="hf")
        run.log(0, {"objective/kl": 0.5})
    (run.path / "phases.jsonl").write_text("{}\n{oops\n{}\n")
    (run.path / "config.yaml").write_text("a: [1\n")
    write_json(run.path / "stages.json", {"columns": ["a", "b"], "rows": [["only one"]]})
    write_json(run.path / "samples.json", {"not": "a list"})
    text = compose(run.path).read_text(encoding="utf-8")
    assert "phases.jsonl:2: not a JSON line" in text
    assert "config.yaml:2: not valid YAML" in text
    assert "row 0 has 1 cells, the header has 2" in text
    assert "samples.json: expected a list of objects" in text
    assert "objective/kl" in text
    assert "Hugging Face generate (the fall-back" in text


def test_rounds_may_keep_their_runs_in_parts(tmp_path: Path) -> None:
    for part in ("policy", "rm"):
        settings = RunSettings(root=tmp_path / "rounds" / "1", name=part)
        with Run.create(settings, None, kind=part) as run:
            run.log(0, {"loss/x": 1.0})
            run.log(1, {"loss/x": 2.0})
    text = compose(tmp_path).read_text(encoding="utf-8")
    assert text.index("<h3>policy</h3>") < text.index("<h3>rm</h3>")


def test_an_early_warning_is_shown_with_its_command(tmp_path: Path) -> None:
    run = Run.create(RunSettings(root=tmp_path, name="ppo"), None, kind="ppo")
    for step, gain in ((4, 0.1), (9, 0.9)):
        gains = {"hack/reward_gain": gain, "hack/gold_gain": 0.0, "hack/sqrt_kl": gain}
        run.log(step, {"objective/kl": gain, **gains})
    (run.path / "hacks").mkdir()
    risen = {"name": "phrase “as such”", "early": 0.01, "late": 0.2, "p": 0.001}
    look = {
        "iterations": {"baseline": [0, 1], "recent": [8, 9]},
        "replies": {"baseline": 64, "recent": 63},
        "alarms": ["phrase “as such”: 1% → 20%"],
        "risen": [{**risen, "reward": "0.8 [0.5, 1.1]", "gold": None, "alarm": True}],
        "command": "cool-rlhf hacks detect --early a",
    }
    write_json(run.path / "hacks" / "look.json", look)
    text = compose(run.path).read_text(encoding="utf-8")
    assert "63 replies of iterations 8-9 against 64 of 0-1" in text
    assert "1% → 20%" in text
    assert "0.8 [0.5, 1.1]" in text
    assert "cool-rlhf hacks detect --early a" in text
    assert "gain over the baseline" in text
    write_json(run.path / "hacks" / "look.json", {})
    assert "This part could not be read: KeyError" in compose(run.path).read_text(encoding="utf-8")
