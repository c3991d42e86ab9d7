"""What every verifier answers, and what every verifier is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pretrain_core.chat import Message


@dataclass(frozen=True)
class Verdict:
    """A judgement: `score` in [0, 1], whether the reply passed, and the reason in one sentence.

    A verifier that cannot judge says so by None for both: that counts neither for nor against.
    """

    score: float | None
    passed: bool | None
    reason: str

    def __post_init__(self) -> None:
        if (self.score is None) != (self.passed is None):
            raise ValueError("score and passed are both given, or neither")
        if self.score is not None and not 0 <= self.score <= 1:
            raise ValueError(f"a verdict's score lies in [0, 1], not at {self.score}")

    @property
    def judged(self) -> bool:
        """Whether there is a score."""
        return self.score is not None


class Verifier(Protocol):
    """A check of replies by rule; safe to call from many threads."""

    def verify(self, prompt: Sequence[Message], reply: str, reference: str | None) -> Verdict:
        """Judge the reply; whatever is in it, this answers within bounded time."""
        ...

    def close(self) -> None:
        """End the processes that the verifier keeps, if any."""
        ...


def right(reason: str = "") -> Verdict:
    """Full score."""
    return Verdict(1.0, True, reason)


def wrong(reason: str) -> Verdict:
    """No score."""
    return Verdict(0.0, False, reason)


def unjudged(reason: str) -> Verdict:
    """No judgement."""
    return Verdict(None, None, reason)
