"""One reward from the reward model and the verifiers, by the weights of the condition."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

from pydantic import Field, model_validator

from pretrain_core.errors import RunFailed
from pretrain_core.sandbox import bounded_map
from pretrain_core.settings import Settings
from reward.conditions import Conditions
from reward.settings import LossSettings
from reward.verifiers import Verdict, Verifier, VerifierSettings, build_verifier
from reward.verifiers.sample import Grader, Sample

BAND = LossSettings().bound


class CannotCompose(RunFailed):
    """A sample that got no reward; the message says why."""


class ConditionWeights(Settings):
    """What counts under one condition: a weighted mean, so weights need not sum to 1."""

    rm: float = Field(1.0, ge=0, description="weight of the reward model's raw score")
    verifiers: dict[str, float] = Field(
        {}, description="verifier → weight; its score [0, 1] is stretched to the band [−5, 5]"
    )

    @model_validator(mode="after")
    def _some(self) -> "ConditionWeights":
        for name, weight in self.verifiers.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"verifiers.{name}: a weight is a number ≥ 0, not {weight}")
        if self.rm + sum(self.verifiers.values()) <= 0:
            raise ValueError("at least one weight is above 0")
        return self


class ComposeSettings(Settings):
    """Which verifiers there are, and what they weigh; other conditions take the RM's score."""

    verifiers: dict[str, VerifierSettings] = Field({}, description="name → settings of a verifier")
    weights: dict[str, ConditionWeights] = Field({}, description="condition → weights")
    unjudged: Literal["renormalise", "fail"] = Field(
        "renormalise",
        description="where a verifier cannot judge: leave it out of the mean, or stop",
    )
    workers: int = Field(4, ge=1, description="verifications at the same time")

    @model_validator(mode="after")
    def _named(self) -> "ComposeSettings":
        for condition, weights in self.weights.items():
            for name in weights.verifiers:
                if name not in self.verifiers:
                    known = ", ".join(self.verifiers) or "none"
                    raise ValueError(
                        f"weights.{condition}: no verifier {name!r}; there are: {known}"
                    )
        return self


@dataclass(frozen=True)
class ComposedScore:
    """`total` on the reward model's scale, and what it was made of.

    `parts`: `rm` raw, each verifier's score in [0, 1], None where it could not judge.
    """

    total: float
    parts: dict[str, float | None]
    reasons: dict[str, str] = field(default_factory=dict)


Verdicts = Mapping[str, Verdict]
"""What verifiers say of one reply, by their names."""


class RewardComposer:
    """Judges many replies at once; a context manager, since verifiers may keep processes.

    Raises UnknownCondition for weights of a condition that the reward model does not have.
    """

    def __init__(self, settings: ComposeSettings, conditions: Conditions) -> None:
        for name in settings.weights:
            conditions.get(name)
        self.settings = settings
        self._verifiers: dict[str, Verifier] = {
            name: build_verifier(verifier) for name, verifier in settings.verifiers.items()
        }

    def __enter__(self) -> "RewardComposer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the verifiers' processes."""
        for verifier in self._verifiers.values():
            verifier.close()

    def asked(self, condition: str) -> list[str]:
        """Verifiers that count under a condition."""
        weights = self._weights(condition).verifiers
        return [name for name, weight in weights.items() if weight > 0]

    def judge(self, samples: Sequence[Sample]) -> list[Verdicts]:
        """What each verifier that counts says of each sample.

        Raises GraderFailed where a function or a server does not answer as it must.
        """
        asked: dict[str, list[int]] = {}
        for number, sample in enumerate(samples):
            for name in self.asked(sample.condition):
                asked.setdefault(name, []).append(number)
        jobs = [job for name, numbers in asked.items() for job in self._jobs(name, numbers)]

        def work(job: tuple[str, list[int]]) -> list[Verdict]:
            verifier, chosen = self._verifiers[job[0]], [samples[number] for number in job[1]]
            if isinstance(verifier, Grader):
                return verifier.grade(chosen)
            return [verifier.verify(s.prompt, s.reply, s.reference) for s in chosen]

        verdicts: list[dict[str, Verdict]] = [{} for _ in samples]
        found = bounded_map(work, jobs, self.settings.workers)
        for (name, numbers), given in zip(jobs, found, strict=True):
            for number, verdict in zip(numbers, given, strict=True):
                verdicts[number][name] = verdict
        return [*verdicts]

    def _jobs(self, name: str, numbers: list[int]) -> list[tuple[str, list[int]]]:
        """One job for a verifier that takes all at once, else one for each sample."""
        if isinstance(self._verifiers[name], Grader):
            return [(name, numbers)]
        return [(name, [number]) for number in numbers]

    def compose(self, sample: Sample, rm_score: float, verdicts: Verdicts) -> ComposedScore:
        """One reward of the reward model's raw score and the verdicts.

        Raises CannotCompose for a raw score that is not finite, where a verifier that cannot judge
        must (setting `unjudged`), and where nothing that counts is left to judge by.
        """
        if not math.isfinite(rm_score):
            raise CannotCompose(f"the reward model's score is {rm_score}")
        weights = self._weights(sample.condition)
        reasons = {name: verdict.reason for name, verdict in verdicts.items()}
        silent = [name for name, verdict in verdicts.items() if not verdict.judged]
        if silent and self.settings.unjudged == "fail":
            raise CannotCompose(f"{silent[0]} cannot judge: {reasons[silent[0]]}")
        terms = [(weights.rm, rm_score)]
        terms += [
            (weights.verifiers[name], (2 * verdict.score - 1) * BAND)
            for name, verdict in verdicts.items()
            if verdict.score is not None
        ]
        weight = math.fsum(weight for weight, _ in terms)
        if weight <= 0:
            raise CannotCompose(
                f"nothing that counts under {sample.condition} can judge it: {reasons}"
            )
        total = math.fsum(weight * value for weight, value in terms) / weight
        parts = {"rm": rm_score} | {name: v.score for name, v in verdicts.items()}
        return ComposedScore(total, parts, reasons)

    def _weights(self, condition: str) -> ConditionWeights:
        return self.settings.weights.get(condition, ConditionWeights())
