"""Curves of a run's metrics, grouped by prefix, the ones to look at first on top."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pretrain_core.runs.figures import Point, line_chart
from pretrain_core.runs.html import charts, details, heading, table

Rows = Sequence[Mapping[str, float]]

FIRST = ("objective", "policy", "loss")
_THEN = ("rewards", "critic", "val", "eval", "rm", "hack", "guard", "sync", "perf", "timing_s")
_ORDER = (*FIRST, *_THEN)
# Phases of one iteration are read against each other.
_TOGETHER = ("timing_s",)
_MOST_IN_ONE_CHART = 8


def curves_of(rows: Rows) -> dict[str, list[Point]]:
    """Return the points `(step, value)` of every metric, in the order of steps."""
    found: dict[str, list[Point]] = {}
    for row in sorted(rows, key=lambda row: row["step"]):
        for name, value in row.items():
            if name != "step":
                found.setdefault(name, []).append((row["step"], value))
    return found


def _prefix(name: str) -> str:
    return name.partition("/")[0] if "/" in name else "other"


def _rank(prefix: str) -> tuple[int, str]:
    return (_ORDER.index(prefix) if prefix in _ORDER else len(_ORDER), prefix)


def grouped(curves: Mapping[str, list[Point]]) -> dict[str, dict[str, list[Point]]]:
    """Group curves by the part of their name before the slash, most important groups first."""
    groups: dict[str, dict[str, list[Point]]] = {}
    for name in sorted(curves, key=lambda name: (_rank(_prefix(name)), name)):
        groups.setdefault(_prefix(name), {})[name] = curves[name]
    return groups


def _is_flat(points: Sequence[Point]) -> bool:
    values = [value for _, value in points]
    return len(values) < 2 or all(value == values[0] for value in values)


def _flat_text(points: Sequence[Point]) -> str:
    return f"only at step {points[0][0]:g}" if len(points) == 1 else f"at all {len(points)} steps"


def _group(prefix: str, curves: Mapping[str, list[Point]]) -> str:
    moving = {name: points for name, points in curves.items() if not _is_flat(points)}
    flat = [
        (name, points[0][1], _flat_text(points))
        for name, points in curves.items()
        if _is_flat(points)
    ]
    parts = []
    if prefix in _TOGETHER and 1 < len(moving) <= _MOST_IN_ONE_CHART:
        lines = {name.partition("/")[2]: points for name, points in moving.items()}
        parts.append(charts([line_chart(lines, prefix, "step", "seconds")]))
    elif moving:
        parts.append(
            charts(line_chart({name: points}, name, "step") for name, points in moving.items())
        )
    if flat:
        parts.append(table(flat, ["metric", "value", "seen"]))
    return "".join(parts)


def curves_html(rows: Rows) -> str:
    """Return charts of all metrics: the first groups open, the rest in collapsed blocks."""
    groups = grouped(curves_of(rows))
    leading = [prefix for prefix in groups if prefix in FIRST] or list(groups)[:1]
    parts = []
    for prefix, curves in groups.items():
        if prefix in leading:
            parts.append(heading(prefix) + _group(prefix, curves))
        else:
            count = f"{len(curves)} metric{'s' if len(curves) > 1 else ''}"
            parts.append(details(f"{prefix} · {count}", _group(prefix, curves)))
    return "".join(parts)


def compared_html(rows_by_round: Mapping[str, Rows]) -> str:
    """Return charts of the objective metrics with one line per round, where two rounds have them.

    A round's constant curves stay in: beside another round's they say something.
    """
    curves = {name: curves_of(rows) for name, rows in rows_by_round.items()}
    shared: dict[str, dict[str, list[Point]]] = {}
    for name, found in curves.items():
        for metric, points in found.items():
            if _prefix(metric) == "objective" and any(math.isfinite(y) for _, y in points):
                shared.setdefault(metric, {})[name] = points
    figures = [
        line_chart(lines, metric, "step in the round")
        for metric, lines in sorted(shared.items())
        if len(lines) > 1
    ]
    return charts(figures) if figures else ""
