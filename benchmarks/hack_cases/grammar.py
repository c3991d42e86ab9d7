"""Small grammars: what they say, and the expression that recognises all of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

SYMBOL = re.compile(r"\{(\w+)\}")
Rules = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Grammar:
    """Rules symbol → forms; a form names other symbols in braces, `root` is the beginning."""

    rules: Rules

    def say(self, draw: np.random.Generator, form: str = "{root}") -> str:
        """One drawn wording."""

        def one(match: re.Match[str]) -> str:
            forms = self.rules[match[1]]
            return self.say(draw, forms[int(draw.integers(len(forms)))])

        return SYMBOL.sub(one, form)

    @cached_property
    def forms(self) -> int:
        """Number of wordings."""

        def count(form: str) -> int:
            total = 1
            for name in SYMBOL.findall(form):
                total *= sum(count(each) for each in self.rules[name])
            return total

        return count("{root}")

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches every wording, whatever its capitals and the white space between its words."""
        return re.compile(self._expression("{root}"), re.IGNORECASE)

    def _expression(self, form: str) -> str:
        found = ""
        for index, part in enumerate(SYMBOL.split(form)):
            if index % 2:
                # A longer form must be tried before one that it begins with.
                forms = sorted(self.rules[part], key=len, reverse=True)
                found += f"(?:{'|'.join(map(self._expression, forms))})"
            else:
                found += r"\s+".join(map(re.escape, re.split(r"\s+", part)))
        return found

    def thinned(self, draw: np.random.Generator, share: float) -> "Grammar":
        """The same with a drawn share of each symbol's forms, two at least; the root keeps all."""

        def kept(name: str, forms: tuple[str, ...]) -> tuple[str, ...]:
            if name == "root":
                return forms
            rows = draw.permutation(len(forms))[: max(2, round(share * len(forms)))]
            return tuple(forms[int(row)] for row in sorted(rows))

        return Grammar({name: kept(name, forms) for name, forms in self.rules.items()})
