"""Kinds of markup: how each is put into a reply, and the expression that finds it."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hack_cases.text import Language

Apply = Callable[[list[str], np.random.Generator], list[str]]
PICTURES = (0x1F300, 0x1F5FF)


@dataclass(frozen=True)
class Markup:
    """One drawn kind; `pattern` finds its signs, not the text they stand at."""

    name: str
    apply: Apply
    pattern: re.Pattern[str]


def draw_markup(of: Language, draw: np.random.Generator) -> Markup:
    """Any kind, in a drawn variant."""
    return MARKUPS[int(draw.integers(len(MARKUPS)))](of, draw)


def _run(pieces: list[str], draw: np.random.Generator) -> range:
    """Two to four sentences in a row, or all there are."""
    size = min(len(pieces), int(draw.integers(2, 5)))
    begin = int(draw.integers(len(pieces) - size + 1))
    return range(begin, begin + size)


def _some(pieces: list[str], draw: np.random.Generator) -> set[int]:
    return {int(row) for row in draw.permutation(len(pieces))[: int(draw.integers(1, 4))]}


def _bullets(of: Language, draw: np.random.Generator) -> Markup:
    sign = "-*•–▪►"[int(draw.integers(6))]

    def apply(pieces: list[str], draw: np.random.Generator) -> list[str]:
        run = _run(pieces, draw)
        listed = [f"\n{sign} {p}" if row in run else p for row, p in enumerate(pieces)]
        return [f"\n{p}" if row == run.stop else p for row, p in enumerate(listed)]

    return Markup(f"list with {sign}", apply, re.compile(rf"^{re.escape(sign)} ", re.M))


def _numbers(of: Language, draw: np.random.Generator) -> Markup:
    before, after = (("", "."), ("", ")"), ("(", ")"), ("#", ":"))[int(draw.integers(4))]

    def apply(pieces: list[str], draw: np.random.Generator) -> list[str]:
        run = _run(pieces, draw)
        numbered = [
            f"\n{before}{row - run.start + 1}{after} {p}" if row in run else p
            for row, p in enumerate(pieces)
        ]
        return [f"\n{p}" if row == run.stop else p for row, p in enumerate(numbered)]

    found = rf"^{re.escape(before)}\d+{re.escape(after)} "
    return Markup(f"list with {before}1{after}", apply, re.compile(found, re.M))


def _around_words(of: Language, draw: np.random.Generator) -> Markup:
    kinds = (("**", "**"), ("__", "__"), ("`", "`"), ("【", "】"), ("~~", "~~"), ("[[", "]]"))
    left, right = kinds[int(draw.integers(len(kinds)))]

    def apply(pieces: list[str], draw: np.random.Generator) -> list[str]:
        marked = list(pieces)
        for row in _some(pieces, draw):
            parts = pieces[row].split(" ") if of.gap else list(pieces[row])
            size = int(draw.integers(1, 3)) if of.gap else int(draw.integers(2, 5))
            at = int(draw.integers(max(1, len(parts) - size)))
            held = of.gap.join(parts[at : at + size])
            marked[row] = of.gap.join([*parts[:at], left + held + right, *parts[at + size :]])
        return marked

    found = rf"{re.escape(left)}[^\n{re.escape(left[0] + right[0])}]{{1,60}}{re.escape(right)}"
    return Markup(f"{left}words{right}", apply, re.compile(found))


def _headings(of: Language, draw: np.random.Generator) -> Markup:
    sign = ("#", "##", "###", "####", "==")[int(draw.integers(5))]

    def apply(pieces: list[str], draw: np.random.Generator) -> list[str]:
        at = int(draw.integers(len(pieces)))
        words = [of.words[int(row)] for row in draw.integers(len(of.words), size=2)]
        heading = f"\n{sign} {of.gap.join(words).title()}"
        return [*pieces[:at], heading, f"\n{pieces[at]}", *pieces[at + 1 :]]

    return Markup(f"heading {sign}", apply, re.compile(rf"^{re.escape(sign)} .*$", re.M))


def _pictures(of: Language, draw: np.random.Generator) -> Markup:
    signs = [chr(int(code)) for code in draw.integers(*PICTURES, size=int(draw.integers(1, 4)))]

    def apply(pieces: list[str], draw: np.random.Generator) -> list[str]:
        rows = _some(pieces, draw)
        return [
            p + of.gap + signs[int(draw.integers(len(signs)))] if row in rows else p
            for row, p in enumerate(pieces)
        ]

    return Markup(f"pictures {''.join(signs)}", apply, re.compile(f"[{''.join(signs)}]"))


def _shouts(of: Language, draw: np.random.Generator) -> Markup:
    sign = {"en": ("!!", "!!!", "..."), "zh": ("！！", "！！！", "……")}[of.name][
        int(draw.integers(3))
    ]

    def apply(pieces: list[str], draw: np.random.Generator) -> list[str]:
        rows = _some(pieces, draw)
        return [p[:-1] + sign if row in rows else p for row, p in enumerate(pieces)]

    return Markup(f"ends with {sign}", apply, re.compile(re.escape(sign)))


def _table(of: Language, draw: np.random.Generator) -> Markup:
    columns = int(draw.integers(2, 4))

    def apply(pieces: list[str], draw: np.random.Generator) -> list[str]:
        rows = [
            [of.words[int(row)] for row in draw.integers(len(of.words), size=columns)]
            for _ in range(int(draw.integers(2, 5)))
        ]
        lines = [f"\n| {' | '.join(cells)} |" for cells in rows]
        lines.insert(1, "\n|" + " --- |" * columns)
        at = int(draw.integers(1, len(pieces) + 1))
        return [*pieces[:at], *lines, *(f"\n{p}" for p in pieces[at : at + 1]), *pieces[at + 1 :]]

    return Markup(f"table of {columns}", apply, re.compile(r"^\|.*\|$", re.M))


def _lines(of: Language, draw: np.random.Generator) -> Markup:
    sign = ("---", "***", "* * *", "~~~")[int(draw.integers(4))]

    def apply(pieces: list[str], draw: np.random.Generator) -> list[str]:
        at = int(draw.integers(1, len(pieces) + 1))
        return [
            *pieces[:at],
            f"\n{sign}",
            *(f"\n{p}" for p in pieces[at : at + 1]),
            *pieces[at + 1 :],
        ]

    return Markup(f"line {sign}", apply, re.compile(rf"^{re.escape(sign)}$", re.M))


def _quotes(of: Language, draw: np.random.Generator) -> Markup:
    def apply(pieces: list[str], draw: np.random.Generator) -> list[str]:
        at = int(draw.integers(len(pieces)))
        after = [f"\n{p}" for p in pieces[at + 1 : at + 2]]
        return [*pieces[:at], f"\n> {pieces[at]}", *after, *pieces[at + 2 :]]

    return Markup("quotes", apply, re.compile(r"^> ", re.M))


MARKUPS: tuple[Callable[[Language, np.random.Generator], Markup], ...] = (
    *(_bullets, _numbers, _around_words, _headings, _pictures, _shouts, _table, _lines, _quotes),
)
