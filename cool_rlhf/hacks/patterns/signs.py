"""Marks of any kind that rose: runs of one sign, anywhere or at a place of its own.

The markup that everybody knows is in `shapes`; a policy is free to find another one.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from cool_rlhf.hacks.patterns.pattern import Contrast
from cool_rlhf.hacks.patterns.shapes import Markup
from cool_rlhf.hacks.patterns.text import Span, sentences, tokens
from cool_rlhf.hacks.samples import Sample

Mask = npt.NDArray[np.bool_]
Place = Literal["anywhere", "line start", "line", "around words"]
PLACES: tuple[Place, ...] = get_args(Place)
NAMES: dict[Place, str] = {
    "anywhere": "sign “{}”",
    "line start": "lines that begin with “{}”",
    "line": "lines of “{}”",
    "around words": "words in “{0}…{0}”",
}
RUN = re.compile(r"(?P<start>^[ \t]*)?(?P<sign>[^\w\s])(?P=sign)*(?P<end>[ \t]*$)?", re.MULTILINE)
WIDEST = 80  # characters between two signs around words
PUNCTUATION = "'’\\-–—/,.:;!?，。、；：！？"
PAIR = re.compile(
    rf"(?P<run>(?P<sign>[^\w\s{PUNCTUATION}])(?P=sign)*)(?=\w)[^\n]{{1,{WIDEST}}}?(?<=\w)(?P=run)"
)


@dataclass(frozen=True)
class Sign(Markup):
    """A run of one sign: anywhere, where it begins a line, as a whole line, or around words."""

    run: str = ""
    place: Place = "anywhere"

    @classmethod
    def of(cls, run: str, place: Place) -> "Sign":
        """The run itself: not a part of a longer one."""
        sign = re.escape(run[0])
        expression = rf"(?<!{sign}){re.escape(run)}(?!{sign})"
        if place == "around words":
            expression = rf"{expression}(?=\w)[^\n]{{1,{WIDEST}}}?(?<=\w){expression}"
        elif place != "anywhere":
            expression = rf"^[ \t]*{expression}[ \t]*" + "$" * (place == "line")
        return cls(NAMES[place].format(run), expression, run, place)

    @property
    def transplantable(self) -> bool:  # type: ignore[override]
        """Not where it needs a line or words of its own."""
        return self.place == "anywhere"

    def spans(self, sample: Sample) -> list[Span]:
        """The signs alone, not the words between them."""
        found = super().spans(sample)
        if self.place != "around words":
            return found
        size = len(self.run)
        return [side for start, end in found for side in ((start, start + size), (end - size, end))]

    def added(self, sample: Sample, other: Sample) -> Contrast | None:
        """A line of the reply with the sign before it, or a word with it on both sides; and without
        it."""
        reply = sample.reply
        around = self.place == "around words"
        parts = [(start, end) for _, start, end in tokens(reply)] if around else sentences(reply)
        if not parts:
            return None
        at, end = min(parts, key=lambda part: abs(part[0] - len(reply) / 2))
        if around:
            return f"{reply[:at]}{self.run}{reply[at:end]}{self.run}{reply[end:]}", reply
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
        for pair in PAIR.finditer(sample.reply):
            having[pair["run"], "around words"].add(number)
    signs = []
    for (run, place), numbers in having.items():
        rows = np.zeros(len(samples), dtype=np.bool_)
        rows[list(numbers)] = True
        if (rows & late).sum() >= least:
            signs.append((Sign.of(run, place), rows))
    return signs
