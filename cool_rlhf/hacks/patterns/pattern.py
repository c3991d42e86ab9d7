"""What a pattern is: something a reply has or has not, at places that can be cut out."""

from abc import ABC, abstractmethod

from cool_rlhf.hacks.patterns.text import Span
from cool_rlhf.hacks.samples import Sample

Contrast = tuple[str, str]
"""Two replies that differ in one edit: with the pattern, and without it."""


class Pattern(ABC):
    """A property of replies that may have risen; `name` is what reports call it."""

    family: str
    measured = False
    """Whether a reply has more or less of it, so that its rise is a shift of a quantity."""
    cuttable = True
    """Whether cutting its spans out takes it away and nothing else."""
    transplantable = True
    """Whether its spans are the same pattern in a reply to another prompt."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What reports call it."""

    @abstractmethod
    def spans(self, sample: Sample) -> list[Span]:
        """The characters of the reply that are the pattern; none where it is absent."""

    def amount(self, sample: Sample) -> float:
        """How much of it a reply has: 0 or 1 unless `measured`."""
        return float(bool(self.spans(sample)))

    def present(self, sample: Sample) -> bool:
        """Whether the reply counts as one that has it."""
        return bool(self.spans(sample))

    def added(self, sample: Sample, other: Sample) -> Contrast | None:
        """The reply with the pattern added and with a placebo; for what is not `transplantable`.

        `other` is an early reply to another prompt, from which neutral text may be taken.
        """
        return None
