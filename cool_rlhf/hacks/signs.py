"""Marks of any kind that rose: runs of one sign, anywhere or at the start of a line.

The markup that everybody knows is in `shapes`; a policy is free to find another one.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cool_rlhf.hacks.samples import Sample
from cool_rlhf.hacks.shapes import Markup

Mask = npt.NDArray[np.bool_]
RUN = re.compile(r"(?P<line>^[ \t]*)?(?P<sign>[^\w\s])(?P=sign)*", re.MULTILINE)


@dataclass(frozen=True)
class Sign(Markup):
    """A run of one sign; `leads` where it begins a line."""

    run: str = ""
    leads: bool = False

    @classmethod
    def of(cls, run: str, leads: bool) -> "Sign":
        """The run itself: not a part of a longer one."""
        sign = re.escape(run[0])
        alone = rf"(?<!{sign}){re.escape(run)}(?!{sign})"
        if leads:
            return cls(f"lines that begin with “{run}”", rf"^[ \t]*{alone}[ \t]*", run, leads)
        return cls(f"sign “{run}”", alone, run)


def propose_signs(samples: Sequence[Sample], late: Mask, least: int) -> list[tuple[Sign, Mask]]:
    """Runs of signs in at least `least` late replies, each with the replies [n] that have it."""
    having: dict[tuple[str, bool], set[int]] = defaultdict(set)
    for number, sample in enumerate(samples):
        for found in RUN.finditer(sample.reply):
            run = found[0][len(found["line"] or "") :]
            having[run, False].add(number)
            if found["line"] is not None:
                having[run, True].add(number)
    signs = []
    for (run, leads), numbers in having.items():
        rows = np.zeros(len(samples), dtype=np.bool_)
        rows[list(numbers)] = True
        if (rows & late).sum() >= least:
            signs.append((Sign.of(run, leads), rows))
    return signs
