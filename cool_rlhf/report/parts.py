"""The parts of a report that are read from a run directory's files, each on its own."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain_core.runs.files import RunError, read_json, read_lines
from pretrain_core.runs.html import (
    Markup,
    details,
    escaped,
    heading,
    number,
    paragraph,
    preformatted,
    samples_table,
    table,
)
from pretrain_core.runs.logs import warnings_in
from pretrain_core.runs.progress import duration
from pretrain_core.settings import DEFAULT
from pretrain_core.settings.document import Node, read
from pretrain_core.settings.emit import dotted_leaves, scalar_text

_MOST_WARNINGS = 40


def _origin(root: Node, key: str, lines: list[str]) -> str:
    """Read the origin that `config.yaml` carries as a comment on the value's line."""
    line = root.deepest(key.split(".")).origin.rpartition(":")[2]
    text = lines[int(line) - 1] if line.isdigit() and int(line) <= len(lines) else ""
    return text.rpartition("  # ")[2] if "  # " in text else ""


def configuration(run: Path) -> str:
    """Values that were set, with their origins, and the whole configuration below."""
    path = run / "config.yaml"
    if not path.exists():
        return paragraph("This run was made in Python, without a saved configuration.", dim=True)
    root, text = read(path, path.name), path.read_text(encoding="utf-8")
    lines = text.splitlines()
    rows = [
        (key, Markup(f"<code>{escaped(scalar_text(value))}</code>"), _origin(root, key, lines))
        for key, value in dotted_leaves(root.plain())
    ]
    chosen = [row for row in rows if row[2] != DEFAULT]
    head = (
        table(chosen, ["setting", "value", "from"])
        if chosen
        else paragraph("Every value is the default.", dim=True)
    )
    return head + details(f"all {len(rows)} values", preformatted(text))


def lineage(run: Path, manifest: Mapping[str, Any]) -> str:
    """The artefacts that the run started from, the code, the versions and the machine."""
    parents = [
        (name, parent.get("path", ""), Markup(f"<code>{escaped(parent.get('sha256', ''))}</code>"))
        for name, parent in sorted(manifest.get("parents", {}).items())
    ]
    text = (
        table(parents, ["started from", "path", "SHA-256"])
        if parents
        else paragraph("The run started from no earlier artefact.", dim=True)
    )
    git, machine = manifest.get("git"), manifest.get("hardware", {})
    if git:
        changed = "with uncommitted changes" if git.get("dirty") else "clean"
        text += paragraph(f"Code: commit {git.get('commit')}, {changed}.")
    else:
        text += paragraph("Code: installed, not a git checkout.")
    if machine:
        gpus = ", ".join(machine.get("gpus", [])) or "no GPU"
        text += paragraph(
            f"Machine: {machine.get('processor')}, {machine.get('cores')} cores, "
            f"{machine.get('memory_gib')} GiB, {gpus}."
        )
    if manifest.get("command"):
        text += paragraph("Command:") + preformatted(shlex.join(manifest["command"]))
    versions = table(sorted(manifest.get("versions", {}).items()), ["package", "version"])
    return text + details("package versions", versions)


def stages(run: Path) -> str:
    """The metric × stage table of `stages.json`."""
    if not (run / "stages.json").exists():
        return paragraph("No stage table was written for this run.", dim=True)
    return stored_table(run / "stages.json")


def stored_table(path: Path) -> str:
    """A table kept as `{"columns": [...], "rows": [[...]]}`; RunError for any other shape."""
    content = read_json(path)
    if not isinstance(content, dict) or not {"columns", "rows"} <= set(content):
        raise RunError(f"{path}: expected an object with `columns` and `rows`")
    return table(content["rows"], content["columns"])


def samples(run: Path) -> str:
    """Replies before and after training, from `samples.json`."""
    if not (run / "samples.json").exists():
        return paragraph("No samples were written for this run.", dim=True)
    content = read_json(run / "samples.json")
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise RunError(f"{run / 'samples.json'}: expected a list of objects")
    if not content:
        return paragraph("The list of samples is empty.", dim=True)
    both = [
        (item["score_before"], item["score_after"])
        for item in content
        if isinstance(item.get("score_before"), int | float)
        and isinstance(item.get("score_after"), int | float)
    ]
    better = sum(after > before for before, after in both)
    worse = sum(after < before for before, after in both)
    lead = f"{len(content)} samples" + (
        f"; {better} scored higher after, {worse} lower." if both else "."
    )
    shown = samples_table(content[:6])
    rest = samples_table(content[6:])
    more = details(f"{len(content) - 6} more", rest) if rest else ""
    return paragraph(f"{lead} Words that are new after training are marked.") + shown + more


def phases(run: Path) -> str:
    """Wall time per phase, summed over resumes; nested phases stand below their outer one."""
    rows = read_lines(run / "phases.jsonl")
    if not rows:
        return paragraph("No phase was timed.", dim=True)
    total = sum(float(row["seconds"]) for row in rows if "inside" not in row)
    shown: list[tuple[object, ...]] = []
    seen: list[tuple[str, str | None]] = []
    # A killed process leaves inner phases whose outer one was never written.
    outer = {row["name"] for row in rows if "inside" not in row}
    for row in rows:
        inside = row.get("inside") if row.get("inside") in outer else None
        if (row["name"], inside) not in seen:
            seen.append((row["name"], inside))
    tops = [name for name, inside in seen if inside is None]
    for top in tops:
        children = [key for key in seen if key[1] == top and key[0] != top]
        for name, inside in [(top, None), *children]:
            fitting = [
                row
                for row in rows
                if row["name"] == name and (inside is None or row.get("inside") == inside)
            ]
            shown.append(_phase_row(name, inside is not None, fitting, total))
    header = ["phase", "wall time", "times", "share", "", "ended by"]
    if not any(row[-1] for row in shown):
        header, shown = header[:-1], [row[:-1] for row in shown]
    return paragraph(f"{_spent(total)} in all.") + table(shown, header)


def _spent(seconds: float) -> str:
    return duration(seconds) if seconds >= 60 else f"{seconds:.2f} s"


def _phase_row(
    name: str, nested: bool, rows: list[dict[str, Any]], total: float
) -> tuple[object, ...]:
    seconds = sum(float(row["seconds"]) for row in rows)
    share = seconds / total if total else 0.0
    ended = Counter(str(row["ended_by"]) for row in rows if "ended_by" in row)
    note = ", ".join(f"{kind} ({count} ×)" for kind, count in ended.items())
    bar = Markup(f'<span class="bar" style="width:{share * 10:.2f}rem"></span>')
    label = f"· {name}" if nested else name
    return (label, _spent(seconds), len(rows), f"{share:.0%}", bar, note)


def warnings(run: Path, manifest: Mapping[str, Any]) -> str:
    """Warnings and errors of `log.txt` and of the manifest, each once with its count."""
    counts = Counter(warnings_in(run / "log.txt"))
    counts.update(("run", str(text)) for text in manifest.get("warnings", []))
    if not counts:
        if not (run / "log.txt").exists():
            return paragraph("This run has no log.", dim=True)
        return paragraph("None was logged.", dim=True)
    rows = [
        (Markup(f'<div class="text">{escaped(text)}</div>'), source, count)
        for (source, text), count in counts.items()
    ]
    left = len(rows) - _MOST_WARNINGS
    more = paragraph(f"{left} more stand in log.txt.", dim=True) if left > 0 else ""
    return table(rows[:_MOST_WARNINGS], ["warning", "from", "times"]) + more


def gate(folder: Path) -> str:
    """The reward model's gate of a round, from `gate.json`."""
    if not (folder / "gate.json").exists():
        return ""
    content = read_json(folder / "gate.json")
    if not isinstance(content, dict):
        raise RunError(f"{folder / 'gate.json'}: expected an object")
    verdict = f": {content['verdict']}" if "verdict" in content else ""
    text = heading(f"reward model gate{verdict}")
    rest = {key: value for key, value in content.items() if key != "verdict"}
    for key, value in list(rest.items()):
        if _is_grid(value):
            columns = list(dict.fromkeys(column for row in value.values() for column in row))
            rows = [[name, *map(row.get, columns)] for name, row in value.items()]
            text += table(rows, [key, *columns])
            del rest[key]
    measures = [(key, _shown(value)) for key, value in dotted_leaves(rest)]
    return text + (table(measures, ["measure", "value"]) if measures else "")


def _is_grid(value: object) -> bool:
    """Whether a value is a mapping of flat mappings: a table by itself."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(row, dict) and row for row in value.values())
        and not any(isinstance(cell, dict) for row in value.values() for cell in row.values())
    )


def _shown(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return scalar_text(value)
