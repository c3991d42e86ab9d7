"""Small charts as inline SVG: readable in light and dark, the same bytes every time."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Point = tuple[float, float]
Band = tuple[float, float, float]

# Middle tones that stand out on white and on near-black alike.
COLOURS = ("#3d86d6", "#e0803a", "#3ba272", "#c9619b", "#9579d3", "#b0912c", "#5aa9b5", "#d0605e")
# Stands for the page's own text colour, which matplotlib has no name for.
_TEXT = "#010203"
_INCHES = (4.4, 2.5)


def line_chart(
    series: Mapping[str, Sequence[Point]],
    title: str,
    x_label: str = "",
    y_label: str = "",
    bands: Mapping[str, Sequence[Band]] | None = None,
) -> str:
    """Return an inline SVG of one line per series, points `(x, y)`; NaN leaves a gap.

    `bands` shade `(x, low, high)` behind the series of the same name. Several series get a legend.
    """

    def draw(axes: Any) -> None:
        for number, (name, points) in enumerate(series.items()):
            _draw(axes, name, points, (bands or {}).get(name, ()), number)
        _dress(axes, title, x_label, y_label, legend=len(series) > 1)
        if not any(math.isfinite(y) for points in series.values() for _, y in points):
            axes.text(0.5, 0.5, "no data", ha="center", va="center", transform=axes.transAxes)

    return _svg(title, (list(series.items()), list((bands or {}).items())), draw)


def interval_chart(
    series: Mapping[str, Mapping[str, Band]],
    title: str,
    x_label: str = "",
    reference: float | None = None,
) -> str:
    """Return an inline SVG of means with intervals: per series, name → `(mean, low, high)`.

    Names stand below each other, the series of one name side by side; `reference` draws a line.
    """
    names = list(dict.fromkeys(name for found in series.values() for name in found))

    def draw(axes: Any) -> None:
        for number, found in enumerate(series.values()):
            offset = (number - (len(series) - 1) / 2) * 0.7 / max(1, len(series))
            axes.errorbar(
                [mean for mean, _, _ in found.values()],
                [names.index(name) + offset for name in found],
                xerr=[
                    [max(0.0, mean - low) for mean, low, _ in found.values()],
                    [max(0.0, high - mean) for mean, _, high in found.values()],
                ],
                color=COLOURS[number % len(COLOURS)],
                fmt="o",
                markersize=3,
                linewidth=1.5,
                label=list(series)[number].lstrip("_") or "series",
            )
        _dress(axes, title, x_label, "", legend=len(series) > 1, whole_x=False)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        if reference is not None:
            axes.axvline(reference, color=_TEXT, alpha=0.4, linewidth=0.8)

    height = max(1.2, 0.6 + 0.14 * len(names) * (1 + len(series)))
    content = ([(name, list(found.items())) for name, found in series.items()], reference)
    return _svg(title, content, draw, (_INCHES[0], height))


def _svg(
    title: str,
    content: object,
    draw: Callable[[Any], None],
    inches: tuple[float, float] = _INCHES,
) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Ids may only be equal where whole charts are: a browser ignores a clip path of a hidden chart.
    style = {
        "svg.hashsalt": repr((title, content)),
        "svg.fonttype": "none",
        "font.size": 8,
        "text.color": _TEXT,
        "axes.labelcolor": _TEXT,
        "axes.edgecolor": _TEXT,
        "xtick.color": _TEXT,
        "ytick.color": _TEXT,
        # Metric names and prompts are plain text, whatever they contain.
        "text.parse_math": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline(buffer.getvalue(), title)


def _draw(axes: Any, name: str, points: Sequence[Point], band: Sequence[Band], number: int) -> None:
    colour = COLOURS[number % len(COLOURS)]
    finite = [(x, y if math.isfinite(y) else math.nan) for x, y in points]
    few = sum(1 for _, y in finite if not math.isnan(y)) <= 20
    axes.plot(
        [x for x, _ in finite],
        [y for _, y in finite],
        color=colour,
        linewidth=1.5,
        linestyle=("-", "--", "-.", ":")[number // len(COLOURS) % 4],
        marker="o" if few else None,
        markersize=2.5,
        # matplotlib leaves names that start with an underscore out of the legend.
        label=name.lstrip("_") or "series",
    )
    if band:
        lows, highs = [low for _, low, _ in band], [high for _, _, high in band]
        axes.fill_between([x for x, _, _ in band], lows, highs, color=colour, alpha=0.2, lw=0)


def _dress(
    axes: Any, title: str, x_label: str, y_label: str, legend: bool, whole_x: bool = True
) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(visible=True, alpha=0.15, color=_TEXT, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_alpha(0.4)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=whole_x))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.ticklabel_format(axis="y", scilimits=(-3, 4), useOffset=False)
    if legend:
        labels = axes.get_legend_handles_labels()[1]
        # Points: a mark takes about 30, a letter of this size 4.
        widest = 30 + 4 * max(map(len, labels), default=0)
        columns = max(1, min(4, int(axes.figure.get_figwidth() * 72 / widest)))
        # Outside of the axes, where it covers no line.
        axes.figure.legend(fontsize=7, frameon=False, loc="outside lower center", ncols=columns)


def _inline(svg: str, title: str) -> str:
    """Turn a standalone SVG document into an element that fits into a page many times."""
    # Everything before the first group is the header, the metadata and a global style rule.
    body = svg[svg.index("<g id=") :]
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box is not None
    # Group names repeat in every chart and nothing refers to them; what is referred to keeps its
    # hash of the salt.
    body = re.sub(r' id="[A-Za-z.]+\d*[A-Za-z]*_\d+"', "", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body).replace("xlink:href", "href")
    body = body.replace(_TEXT, "currentColor")
    return (
        f'<svg class="chart" role="img" aria-label="{html.escape(title)}" {view_box[0]} '
        f'font-family="system-ui, sans-serif" stroke-linejoin="round">\n{body.strip()}'
    )
