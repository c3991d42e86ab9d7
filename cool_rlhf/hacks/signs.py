"""Marks of any kind that rose: runs of one sign, anywhere or at the start of a line.

The markup that everybody knows is in `shapes`; a policy is free to find another one.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from cool_rlhf.hacks.pattern import Contrast
from cool_rlhf.hacks.samples import Sample
from cool_rlhf.hacks.shapes import Markup
from cool_rlhf.hacks.text import sentences

Mask = npt.NDArray[np.bool_]
Place = Literal["anywhere", "line start", "line"]
PLACES: tuple[Place, ...] = get_args(Place)
NAMES: dict[Place, str] = {
    "anywhere": "sign “{}”",
    "line start": "lines that begin with “{}”",
    "line": "lines of “{}”",
}
RUN = re.compile(r"(?P<start>^[ \t]*)?(?P<sign>[^\w\s])(?P=sign)*(?P<end>[ \t]*$)?", re.MULTILINE)


@dataclass(frozen=True)
class Sign(Markup):
    """A run of one sign: anywhere, where it begins a line, or as a whole line."""

    run: str = ""
    place: Place = "anywhere"

    @classmethod
    def of(cls, run: str, place: Place) -> "Sign":
        """The run itself: not a part of a longer one."""
        sign = re.escape(run[0])
        expression = rf"(?<!{sign}){re.escape(run)}(?!{sign})"
        if place != "anywhere":
            expression = rf"^[ \t]*{expression}[ \t]*"
        if place == "line":
            expression += "$"
        return cls(NAMES[place].format(run), expression, run, place)

    @property
    def transplantable(self) -> bool:  # type: ignore[override]
        """Not where it needs a line of its own."""
        return self.place == "anywhere"

    def added(self, sample: Sample, other: Sample) -> Contrast | None:
        """A line of the reply with the sign before it, and without."""
        reply = sample.reply
        starts = [start for start, _ in sentences(reply)]
        if not starts:
            return None
        at = min(starts, key=lambda start: abs(start - len(reply) / 2))
        before, after = reply[:at].rstrip(), reply[at:]
        above = f"{before}\n" if before else ""
        gap = "\n" if self.place == "line" else " "
        return f"{above}{self.run}{gap}{after}", f"{above}{after}"


def propose_signs(samples: Sequence[Sample], late: Mask, least: int) -> list[tuple[Sign, Mask]]:
    """Runs of signs in at least `least` late replies, each with the replies [n] that have it."""
    having: dict[tuple[str, Place], set[int]] = defaultdict(set)
    for number, sample in enumerate(samples):
        for found in RUN.finditer(sample.reply):
            run = found[0].strip()
            having[run, "anywhere"].add(number)
            if found["start"] is not None:
                having[run, "line start"].add(number)
                if found["end"] is not None:
                    having[run, "line"].add(number)
    signs = []
    for (run, place), numbers in having.items():
        rows = np.zeros(len(samples), dtype=np.bool_)
        rows[list(numbers)] = True
        if (rows & late).sum() >= least:
            signs.append((Sign.of(run, place), rows))
    return signs
