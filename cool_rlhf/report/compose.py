"""Compose a run's report: one HTML file that needs nothing beside it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec

from cool_rlhf.ppo.evaluation.frontier import FOLDER as EVALUATIONS
from cool_rlhf.ppo.monitor.health import FILE
from cool_rlhf.report import parts
from cool_rlhf.report.curves import compared_html, curves_html
from cool_rlhf.report.early_warning import early_warning
from cool_rlhf.report.evaluations import evaluations
from cool_rlhf.report.fast_path import FOLDER, fast_path
from cool_rlhf.report.health import health
from pretrain_core.runs.files import RunError, read_json, write_text
from pretrain_core.runs.html import Section, details, heading, page, paragraph, table
from pretrain_core.runs.run import MANIFEST, read_metrics

logger = logging.getLogger(__name__)

P = ParamSpec("P")

_ENGINES = {
    "vllm": "vLLM",
    "hf": "Hugging Face generate (the fall-back: vLLM did not start, or was not asked for)",
}


def compose(run: Path) -> Path:
    """Write `report.html` into a run directory and return its path.

    A part whose files are missing becomes a plain sentence, a part whose files are broken names
    the file and the line. Raises RunError when the path is no directory.
    """
    run = Path(run)
    if not run.is_dir():
        raise RunError(f"{run}: no run directory")
    manifest = _manifest(run)
    rounds = _round_folders(run)
    has_metrics = (run / "metrics.jsonl").exists()
    sections = [
        Section("Stages", _guarded(parts.stages, run)),
        *([Section("Health", _guarded(health, run))] if (run / FILE).exists() else []),
        *_reward_models(run),
        Section("Samples", _guarded(parts.samples, run)),
        *([Section("Curves", _guarded(_curves, run))] if has_metrics or not rounds else []),
        *([Section("Evaluations", _guarded(evaluations, run))] if _evaluated(run) else []),
        *([Section("Early warning", _guarded(early_warning, run))] if _looked(run) else []),
        *([Section("Rounds", _rounds(rounds))] if rounds else []),
        Section("Wall time", _guarded(parts.phases, run)),
        Section("Warnings", _guarded(parts.warnings, run, manifest)),
        Section("Configuration", _guarded(parts.configuration, run)),
        Section("Lineage", _guarded(parts.lineage, run, manifest)),
    ]
    title = str(manifest.get("name", run.resolve().name))
    path = run / "report.html"
    write_text(path, page(title, sections, lead=_lead(manifest)))
    return path


def _reward_models(run: Path) -> list[Section]:
    path = run / "reward_models.json"
    if not path.exists():
        return []
    return [Section("Reward models on held-out pairs", _guarded(parts.stored_table, path))]


def _evaluated(run: Path) -> bool:
    return any((run / EVALUATIONS).glob("*.json"))


def _looked(run: Path) -> bool:
    return (run / "hacks" / "look.json").exists()


def _guarded(part: Callable[P, str], *args: P.args, **kwargs: P.kwargs) -> str:
    """A report is most wanted when something is broken: say which file, and show the rest."""
    try:
        return part(*args, **kwargs)
    except (RunError, ValueError, LookupError, TypeError, AttributeError) as error:
        # The last three come from files of the right syntax and another shape.
        logger.warning("report: a part could not be read: %s", error, exc_info=True)
        return paragraph(f"This part could not be read: {type(error).__name__}: {error}")


def _manifest(run: Path) -> dict[str, Any]:
    if not (run / MANIFEST).exists():
        return {"warnings": [f"{MANIFEST} is missing: lineage, engine and command are unknown."]}
    try:
        content = read_json(run / MANIFEST)
    except RunError as error:
        return {"warnings": [str(error)]}
    if not isinstance(content, dict):
        return {"warnings": [f"{MANIFEST} is not an object."]}
    return content


def _lead(manifest: Mapping[str, Any]) -> str:
    facts = [
        ("kind", manifest.get("kind")),
        ("started", _minute(manifest.get("started"))),
        ("seed", None if "seed" not in manifest else str(manifest["seed"])),
        ("rollout engine", _ENGINES.get(str(manifest.get("engine")), manifest.get("engine"))),
    ]
    known = " · ".join(f"{name}: {value}" for name, value in facts if value is not None)
    return paragraph(known or "Nothing is known about this run's beginnings.", dim=True)


def _minute(started: object) -> str | None:
    return f"{started[:16].replace('T', ' ')} UTC" if isinstance(started, str) else None


def _curves(folder: Path) -> str:
    rows = read_metrics(folder)
    return curves_html(rows) if rows else paragraph("No metrics were logged here.", dim=True)


def _round_folders(run: Path) -> list[Path]:
    """Return `rounds/<k>` in numeric order, those that hold a run or a gate."""
    folders = [folder for folder in run.glob("rounds/*") if folder.name.isdigit()]
    return [
        folder
        for folder in sorted(folders, key=lambda folder: int(folder.name))
        if _metric_folders(folder) or (folder / "gate.json").exists()
    ]


def _metric_folders(folder: Path) -> list[Path]:
    """Return a round's run directories: itself, or its parts such as `policy` and `rm`."""
    candidates = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    return [path for path in candidates if (path / "metrics.jsonl").exists()]


def _compared(folders: list[Path]) -> str:
    return compared_html({f"round {folder.name}": read_metrics(folder) for folder in folders})


def _rounds(folders: list[Path]) -> str:
    compared = _guarded(_compared, folders)
    text = heading("Rounds side by side") + compared if compared else ""
    for folder in folders:
        text += f'<h2 id="round-{folder.name}">Round {folder.name}</h2>\n'
        if (folder / FOLDER / "result.json").exists():
            text += heading("fast path") + _guarded(fast_path, folder)
        text += _guarded(parts.gate, folder)
        for inner in _metric_folders(folder):
            if inner != folder:
                text += heading(inner.name)
            text += _round_part(inner)
    return text


def _round_part(folder: Path) -> str:
    manifest = _manifest(folder)
    text = _guarded(_curves, folder)
    if _looked(folder):
        text += heading("early warning") + _guarded(early_warning, folder)
    if (folder / "phases.jsonl").exists():
        text += details("wall time", _guarded(parts.phases, folder))
    if (folder / MANIFEST).exists():
        started = [
            (name, parent.get("path", ""), parent.get("sha256", ""))
            for name, parent in sorted(manifest.get("parents", {}).items())
        ]
        if started:
            text += details("started from", table(started, ["name", "path", "SHA-256"]))
        text += details("warnings", _guarded(parts.warnings, folder, manifest))
    return text
