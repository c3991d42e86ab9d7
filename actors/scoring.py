"""What scoring is asked for and gives, wherever the reward model runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from actors.placement import RoleResources
from pretrain_core.errors import RunFailed


class Judged(NamedTuple):
    """A raw score, and the standard deviation over the model's heads where it has several."""

    value: float
    spread: float | None = None


Answer = Judged | str
"""A score, or why a sample has none."""


class ScoreError(RunFailed):
    """A batch without scores."""


class SamplesRefused(ScoreError):
    """Samples that have no score, never a silent None; `reasons` by their names."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        named = "; ".join(f"{name}: {reason}" for name, reason in [*reasons.items()][:3])
        super().__init__(f"{len(reasons)} of the samples cannot be scored: {named}")
        self.reasons = dict(reasons)


@dataclass(frozen=True)
class Scored:
    """Raw scores in the order of the conversations, and the one model that gave them.

    `spreads`: how far its heads are apart; None each for a model of one head, and from a service.
    """

    values: list[float]
    rm_version: str
    spreads: list[float | None]


SERVICE_KEYS = ("url", "token_env", "admin_token_env", "deadline", "on_failure")


class ScorerSettings(RoleResources):
    """The scorer's ranks, which share the conversations."""

    kind: Literal["local", "service"] = Field(
        "local", description="local: the ranks hold the model; service: `reward serve` does"
    )
    url: str | None = Field(None, description="of the reward service")
    token_env: str = Field(
        "COOL_RLHF_REWARD_TOKEN", description="variable that holds the service's token"
    )
    admin_token_env: str = Field(
        "COOL_RLHF_REWARD_ADMIN_TOKEN",
        description="variable that, if set, lets a run swap its reward model into the service",
    )
    deadline: float = Field(600.0, gt=0, description="seconds for the scores of one batch")
    on_failure: Literal["retry", "stop"] = Field(
        "retry", description="when the service fails: try again until the deadline, or stop at once"
    )

    @model_validator(mode="after")
    def _service_or_not(self) -> ScorerSettings:
        fields = type(self).model_fields
        # Saved settings state every key: only values that differ from the defaults count.
        changed = [key for key in SERVICE_KEYS if getattr(self, key) != fields[key].default]
        if self.kind == "local" and changed:
            raise ValueError(f"{', '.join(changed)} need kind: service")
        if self.kind == "service" and not self.url:
            raise ValueError("kind: service needs a url")
        if self.kind == "service" and self.world_size != 1:
            raise ValueError(
                "kind: service has one rank, so that each batch has one version: the service has "
                "replicas of its own"
            )
        return self
