"""What is judged, and verifiers that judge many replies in one call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pydantic import Field, model_validator

from pretrain_core.chat import Message
from pretrain_core.errors import RunFailed
from pretrain_core.sandbox import bounded_map
from pretrain_core.settings import Settings
from reward.conditions import DEFAULT
from reward.verifiers.verdict import Verdict, Verifier, unjudged


@dataclass(frozen=True)
class Sample:
    """One reply to be judged: the turns before it, its text, for whom, and what it should be."""

    prompt: Sequence[Message]
    reply: str
    condition: str = DEFAULT
    reference: str | None = None


@runtime_checkable
class Grader(Protocol):
    """A verifier that takes all replies at once."""

    def grade(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Verdicts in the order of the samples, within bounded time."""
        ...


class GraderFailed(RunFailed):
    """A grader that did not answer, or not with one usable score for each reply."""


class ScaleSettings(Settings):
    """What the scores of a foreign grader mean, and what happens without them."""

    low: float = Field(0.0, description="its score of the worst reply")
    high: float = Field(1.0, description="its score of the best reply; others are refused")
    on_failure: str = Field(
        "stop",
        pattern="^(stop|unjudged)$",
        description="no answer, or a wrong one: stop the run, or leave its part out of the mean",
    )

    @model_validator(mode="after")
    def _ordered(self) -> "ScaleSettings":
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


def judged(verifier: Verifier, samples: Sequence[Sample], workers: int) -> list[Verdict]:
    """Verdicts of one verifier in the order of the samples; raises GraderFailed."""
    if isinstance(verifier, Grader):
        return verifier.grade(samples)
    return bounded_map(lambda s: verifier.verify(s.prompt, s.reply, s.reference), samples, workers)


def graded(
    ask: Callable[[Sequence[Sample]], Sequence[object]],
    samples: Sequence[Sample],
    settings: ScaleSettings,
) -> list[Verdict]:
    """Verdicts from a grader's raw answers: a number of its scale, or None where it cannot judge.

    Raises GraderFailed where `on_failure` is "stop".
    """
    if not samples:
        return []
    try:
        answers = ask(samples)
        if len(answers) != len(samples):
            raise GraderFailed(f"{len(answers)} scores for {len(samples)} replies")
        return [_verdict(number, answer, settings) for number, answer in enumerate(answers)]
    except GraderFailed as failure:
        if settings.on_failure == "stop":
            raise
        return [unjudged(str(failure)) for _ in samples]


def _verdict(number: int, answer: object, settings: ScaleSettings) -> Verdict:
    if answer is None:
        return unjudged("no score")
    low, high = settings.low, settings.high
    # NaN is in no range.
    if not isinstance(answer, int | float) or not low <= answer <= high:
        raise GraderFailed(
            f"the score of reply {number} is {answer!r}, not in [{low:g}, {high:g}]: set low and"
            " high to its range"
        )
    score = (answer - low) / (high - low)
    return Verdict(score, score >= 0.5, f"{answer:g}")
