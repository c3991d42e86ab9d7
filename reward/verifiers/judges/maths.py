"""Compares answers by math-verify; its own time limits are off, the fork server has one."""

import re
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

_TARGETS = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
_WORD = re.compile(r"(?<!\\)\b[A-Za-z]{3,}\b")
_DELIMITERS = ("$", "\\boxed", "\\(", "\\[")


def handle(argument: dict[str, Any]) -> dict[str, Any]:
    """`equal` (None: the reference is no answer), and the answer found in the reply as text."""
    reference = _reference(argument["reference"])
    if not reference:
        return {"equal": None, "found": None}
    answer = _parse(argument["reply"], _TARGETS)
    if not answer:
        return {"equal": False, "found": None}
    equal = verify(
        reference,
        answer,
        float_rounding=argument["digits"],
        timeout_seconds=None,
        raise_on_error=False,
    )
    return {"equal": bool(equal), "found": str(answer[-1])[:200]}


def _reference(text: str) -> list[Any]:
    """Parse a bare answer too: `\\frac{1}{2}` is LaTeX although nothing delimits it."""
    if any(mark in text for mark in _DELIMITERS):
        return _parse(text, _TARGETS)
    bare = [] if "\\" in text else _parse(text, [ExprExtractionConfig()])
    # As LaTeX, any word is a product of its letters.
    if bare or _WORD.search(text):
        return bare
    return _parse(f"${text}$", [LatexExtractionConfig()])


def _parse(text: str, targets: list[Any]) -> list[Any]:
    # Without a fall-back: a text that cannot be parsed is no answer, and is never compared as one.
    return list(parse(text, targets, fallback_mode="no_fallback", parsing_timeout=None))


# Grammars and patterns are built at first use: here once, not again in every fork.
handle({"reply": "$x = \\frac{1}{2}$ or 2", "reference": "\\frac{1}{2}", "digits": 6})
