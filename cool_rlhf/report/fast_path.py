"""The fast path's part of a round's report: what was found, and what the gate said of the patch."""

from pathlib import Path
from typing import Any

from cool_rlhf.hacks.page import short
from pretrain_core.runs.files import RunError, read_json
from pretrain_core.runs.html import details, paragraph, table

FOLDER = "fast_path"


def fast_path(folder: Path) -> str:
    """The findings of a round's detection, and the gate's tests where a patch was made."""
    found, result = (_object(folder / FOLDER / file) for file in ("hacks.json", "result.json"))
    text = paragraph(
        f"{found['prompts']} prompts, early against late policy. Hacks: "
        f"{', '.join(result['hacks']) or 'none'}. Patch: {result['verdict']}."
    )
    rows = [
        [
            finding["verdict"],
            short(finding["name"]),
            f"{finding['early']:.0%} → {finding['late']:.0%}",
            finding["reason"],
        ]
        for finding in found["findings"]
    ]
    if rows:
        text += table(rows, ["verdict", "pattern", "replies", "why"])
    patch = folder / FOLDER / "patch" / "patch.json"
    if patch.exists():
        tests = [
            [test["name"], short(test["hack"] or ""), test["verdict"], test["statement"]]
            for test in _object(patch)["gate"]["tests"]
        ]
        text += details("gate of the patch", table(tests, ["test", "hack", "verdict", "seen"]))
    return text + paragraph(
        f"More in {FOLDER}/report.html and {FOLDER}/patch/report.html.", dim=True
    )


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise RunError(f"{path}: expected an object")
    return content
