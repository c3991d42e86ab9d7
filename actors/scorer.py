"""The scorer: the conditional reward model, frozen, one version for each batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from actors.group import Group, Pending, done
from actors.placement import Placement, RoleResources
from actors.worker import Worker
from pretrain_core.chat import Message
from reward.conditions import UnknownCondition
from reward.inputs import RewardInputError

if TYPE_CHECKING:
    from reward.model import RewardModel


class ScoreError(ValueError):
    """A sample that has no score, named by its index in the batch; never a silent None."""


@dataclass(frozen=True)
class Scored:
    """Raw scores in the order of the conversations, and the one model that gave them."""

    values: list[float]
    rm_version: str


class ScorerSettings(RoleResources):
    """The scorer's ranks, which share the conversations."""


class ScorerWorker(Worker):
    """One rank of the scorer."""

    def load(self, folder: Path) -> None:
        """Load a reward-model folder."""
        from reward.model import RewardModel

        self.model: RewardModel = RewardModel.load(folder, self.place.device)

    def score(self, rows: Sequence[tuple[int, Sequence[Message], str]]) -> tuple[list[float], str]:
        """Scores of (index, conversation, condition) rows, and the model's version."""
        from reward.card import RewardModelError

        inputs = []
        for index, conversation, condition in rows:
            try:
                inputs.append(self.model.input(conversation, condition))
            except (RewardInputError, UnknownCondition) as error:
                raise ScoreError(f"sample {index} cannot be scored: {error}") from error
        try:
            return self.model.score(inputs).tolist(), self.model.version
        except RewardModelError as error:
            bad = [row[0] for row, tokens in zip(rows, inputs, strict=True) if self._fails(tokens)]
            raise ScoreError(f"samples {bad} have no finite score: {error}") from error

    def _fails(self, tokens: Sequence[int]) -> bool:
        from reward.card import RewardModelError

        try:
            self.model.score([tokens])
        except RewardModelError:
            return True
        return False


class Scorer:
    """Driver-side handle."""

    def __init__(self, group: Group) -> None:
        self.group = group

    @classmethod
    def start(
        cls,
        settings: ScorerSettings | None = None,
        placement: Placement | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Scorer:
        """Start the ranks; raises PlacementError."""
        return cls(Group("scorer", ScorerWorker, settings or ScorerSettings(), placement, env))

    def load(self, reward_model: Path) -> Pending[None]:
        """Load a reward-model folder; batches scored from now on carry its version."""
        return self.group.call("load", reward_model).then(done)

    def score(
        self, conversations: Sequence[Sequence[Message]], conditions: Sequence[str]
    ) -> Pending[Scored]:
        """Score each conversation under its one condition.

        Raises ValueError when the counts differ; ScoreError (as the cause of ActorFailed) naming
        the sample when it has no finite score.
        """
        if len(conversations) != len(conditions):
            raise ValueError(f"{len(conversations)} conversations, {len(conditions)} conditions")
        rows = [
            (index, tuple(messages), condition)
            for index, (messages, condition) in enumerate(
                zip(conversations, conditions, strict=True)
            )
        ]
        ranks = self.group.world_size
        shards = [(rows[rank::ranks],) for rank in range(ranks)]

        def join(parts: list[tuple[list[float], str]]) -> Scored:
            versions = sorted({version for _, version in parts})
            if len(versions) > 1:
                raise ScoreError(f"one batch was scored by several models: {versions}")
            values = [0.0] * len(rows)
            for rank, (scores, _) in enumerate(parts):
                values[rank::ranks] = scores
            return Scored(values, versions[0])

        return self.group.scatter("score", shards).then(join)

    def close(self) -> None:
        """End the ranks."""
        self.group.close()
