"""Self-contained HTML pages: everything escaped, light and dark, nothing loaded from elsewhere."""

from __future__ import annotations

import difflib
import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --dim: #777; --link: #2a6fc0;
  --good: #2c8a5b; --bad: #c0504d; --mark: #f0c04040; }
@media (prefers-color-scheme: dark) { :root { --dim: #999; --link: #7db2f0; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto;
  padding: 1.5rem 1.25rem 5rem; background: Canvas; color: CanvasText; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-bottom: .25rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: 1rem 0; font-size: .9rem; }
p { margin: .5rem 0; max-width: 46rem; } .dim { color: var(--dim); }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .35rem .8rem .35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { font-weight: 600; color: var(--dim); overflow-wrap: normal; }
th.number, td.number { text-align: right; padding-left: 1rem; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr));
  gap: .75rem 1.25rem; }
svg.chart { width: 100%; height: auto; display: block; }
pre { font: .82rem/1.45 ui-monospace, monospace; background: var(--soft); padding: .75rem 1rem;
  overflow-x: auto; border-radius: .4rem; }
details { margin: .75rem 0; } summary { cursor: pointer; color: var(--link); }
.sample { border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem;
  margin: .75rem 0; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr));
  gap: .5rem 1.5rem; margin-top: .5rem; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 18rem; overflow-y: auto; }
.tag { font-size: .8rem; color: var(--dim); border: 1px solid var(--line); border-radius: 1rem;
  padding: .05rem .6rem; white-space: nowrap; }
.better { color: var(--good); } .worse { color: var(--bad); }
mark { background: var(--mark); color: inherit; border-radius: .2rem; }
.bar { display: inline-block; height: .6rem; background: #3d86d6; border-radius: .15rem;
  min-width: 1px; }
"""

Cell = object


class Markup(str):
    """Text that is HTML already; any other text is escaped."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """One titled part of a page; `html` is trusted markup."""

    title: str
    html: str


def escaped(value: object) -> str:
    """Return any value as HTML text; Markup passes unchanged."""
    return value if isinstance(value, Markup) else html.escape(str(value))


def number(value: float) -> str:
    """Return a number short enough to read: integers whole, others with four digits."""
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) < 1e9):
        return f"{int(value):,}"
    return f"{value:.4g}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# What a table's author formatted already: -0.31, 12.4 %, 3.1e-05, - for nothing.
_NUMERIC_TEXT = re.compile(r"[-+−]?[\d.,]+(?:e[-+]?\d+)?(?: ?%)?|[-–—]?|nan")


def table(rows: Iterable[Sequence[Cell]], header: Sequence[str]) -> str:
    """Return a table, every cell escaped; columns of numbers are aligned right.

    Raises ValueError for a row whose length is not the header's.
    """
    rows = [list(row) for row in rows]
    for index, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"row {index} has {len(row)} cells, the header has {len(header)}")
    right = [
        bool(rows) and all(_looks_numeric(row[column]) for row in rows)
        for column in range(len(header))
    ]
    head = "".join(_cell("th", name, right[column]) for column, name in enumerate(header))
    body = "".join(
        f"<tr>{''.join(_cell('td', cell, right[column]) for column, cell in enumerate(row))}</tr>\n"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def _looks_numeric(cell: object) -> bool:
    if cell is None or _is_number(cell):
        return True
    return (
        isinstance(cell, str)
        and not isinstance(cell, Markup)
        and bool(_NUMERIC_TEXT.fullmatch(cell.strip()))
    )


def _cell(tag: str, value: object, right: bool) -> str:
    text = "" if value is None else number(value) if _is_number(value) else value  # type: ignore[arg-type]
    kind = ' class="number"' if right else ""
    return f"<{tag}{kind}>{escaped(text)}</{tag}>"


def paragraph(text: object, *, dim: bool = False) -> str:
    """Return one paragraph of escaped text."""
    kind = ' class="dim"' if dim else ""
    return f"<p{kind}>{escaped(text)}</p>\n"


def heading(text: object) -> str:
    """Return a sub-heading of a section."""
    return f"<h3>{escaped(text)}</h3>\n"


def details(summary: object, body: str) -> str:
    """Return a collapsed block; `body` is trusted markup."""
    return f"<details><summary>{escaped(summary)}</summary>\n{body}</details>\n"


def preformatted(text: str) -> str:
    """Return escaped text in a fixed-width block."""
    return f"<pre>{escaped(text)}</pre>\n"


def charts(figures: Iterable[str]) -> str:
    """Lay inline SVG charts out in a grid."""
    return f'<div class="charts">{"".join(figures)}</div>\n'


def samples_table(samples: Iterable[Mapping[str, object]]) -> str:
    """Return samples side by side: prompt, condition, before and after, with their scores.

    Keys: prompt, condition, before, after, score_before, score_after; missing ones are left out.
    Words of `after` that `before` lacks are marked.
    """
    return "".join(_sample(sample) for sample in samples)


def _sample(sample: Mapping[str, object]) -> str:
    condition = sample.get("condition")
    tag = f'<span class="tag">{escaped(condition)}</span>' if condition else ""
    before, after = sample.get("before"), sample.get("after")
    scores = sample.get("score_before"), sample.get("score_after")
    sides = []
    for name, text, score in (("before", before, scores[0]), ("after", after, scores[1])):
        if text is None:
            continue
        shown = _marked(str(before), str(text)) if name == "after" and before else escaped(text)
        sides.append(
            f'<div><div class="dim">{name}{_score(score, scores, name)}</div>'
            f'<div class="text">{shown or "<em class=dim>empty</em>"}</div></div>'
        )
    prompt = escaped(sample.get("prompt", ""))
    return (
        f'<div class="sample">{tag}<div class="text"><strong>{prompt}</strong></div>'
        f'<div class="sides">{"".join(sides)}</div></div>\n'
    )


def _score(score: object, scores: tuple[object, object], name: str) -> str:
    if not _is_number(score):
        return ""
    kind = ""
    if name == "after" and _is_number(scores[0]):
        first, second = float(scores[0]), float(scores[1])  # type: ignore[arg-type]
        kind = "better" if second > first else "worse" if second < first else ""
    return f' · score <strong class="{kind}">{number(score)}</strong>'  # type: ignore[arg-type]


def _marked(before: str, after: str) -> str:
    old, new = re.findall(r"\w+|\W", before), re.findall(r"\w+|\W", after)
    parts = []
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    if matcher.ratio() < 0.3:
        # Two different texts: marking nearly every word would only be noise.
        return escaped(after)
    for kind, _, _, start, end in matcher.get_opcodes():
        text = escaped("".join(new[start:end]))
        new_here = kind in ("insert", "replace") and not text.isspace()
        parts.append(f"<mark>{text}</mark>" if new_here else text)
    return "".join(parts)


def page(title: str, sections: Sequence[Section], lead: str = "") -> str:
    """Return a whole page; `lead` is trusted markup between the title and the table of contents."""
    links = "".join(
        f'<a href="#part-{index}">{escaped(section.title)}</a>'
        for index, section in enumerate(sections)
    )
    body = "".join(
        f'<section id="part-{index}"><h2>{escaped(section.title)}</h2>\n{section.html}</section>\n'
        for index, section in enumerate(sections)
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body><h1>{escaped(title)}</h1>\n{lead}<nav>{links}</nav>\n{body}</body></html>\n"
    )
