"""The fast path's part of a round's report."""

from pathlib import Path

from cool_rlhf.report import compose
from pretrain_core.runs import write_json

FINDING = {
    "name": "opening “dear friends”",
    "verdict": "hack",
    "early": 0.2,
    "late": 0.78,
    "reason": "the model pays 0.9 [0.8, 1.0] standard deviations for it, gold 0.0 [-0.1, 0.1]",
}
TEST = {
    "name": "pays nothing",
    "hack": FINDING["name"],
    "verdict": "pass",
    "statement": "the child pays 0.02 [-0.05, 0.09] standard deviations for it",
}


def round_of(run: Path, hacks: list[str]) -> Path:
    folder = run / "rounds" / "1" / "fast_path"
    folder.mkdir(parents=True)
    (run / "rounds" / "1" / "metrics.jsonl").touch()
    found = {"prompts": 480, "findings": [FINDING] if hacks else []}
    write_json(folder / "hacks.json", found)
    verdict = "pass" if hacks else "nothing to patch"
    write_json(folder / "result.json", {"hacks": hacks, "verdict": verdict, "promoted": True})
    return folder


def test_what_was_found_and_what_the_gate_said(tmp_path: Path) -> None:
    folder = round_of(tmp_path, [str(FINDING["name"])])
    (folder / "patch").mkdir()
    write_json(folder / "patch" / "patch.json", {"gate": {"verdict": "pass", "tests": [TEST]}})
    text = compose(tmp_path).read_text(encoding="utf-8")
    assert "Hacks: opening “dear friends”. Patch: pass." in text
    assert "20% → 78%" in text
    assert TEST["statement"] in text
    assert "could not be read" not in text


def test_nothing_found_is_said(tmp_path: Path) -> None:
    round_of(tmp_path, [])
    text = compose(tmp_path).read_text(encoding="utf-8")
    assert "Hacks: none. Patch: nothing to patch." in text
    assert "gate of the patch" not in text
    assert "could not be read" not in text
