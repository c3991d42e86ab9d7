"""The scorer: the conditional reward model, frozen, one version for each batch.

It runs in the scorer's own ranks, or behind a reward service that several jobs share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.group import Group, Pending, done
from actors.placement import Placement
from actors.scoring import Scored, ScoreError, ScorerSettings
from actors.scoring_service import ServiceScorerWorker, service_tokens
from actors.worker import Worker
from pretrain_core.chat import Message
from reward.conditions import UnknownCondition
from reward.inputs import RewardInputError

if TYPE_CHECKING:
    from reward.model import RewardModel


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

    def __init__(self, group: Group, settings: ScorerSettings) -> None:
        self.group = group
        self.settings = settings

    @classmethod
    def start(
        cls,
        settings: ScorerSettings | None = None,
        placement: Placement | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Scorer:
        """Start the ranks; raises PlacementError."""
        settings = settings or ScorerSettings()
        worker: type[Worker] = ScorerWorker
        arguments: tuple[Any, ...] = ()
        if settings.kind == "service":
            service_tokens(settings)
            worker, arguments = ServiceScorerWorker, (settings,)
        return cls(Group("scorer", worker, settings, placement, env, arguments), settings)

    def load(self, reward_model: Path) -> Pending[None]:
        """Load a reward-model folder; batches scored from now on carry its version.

        With a service: see that it serves that version, or swap it in. Raises InputError without
        the service's token.
        """
        tokens = service_tokens(self.settings) if self.settings.kind == "service" else ()
        return self.group.call("load", reward_model, *tokens).then(done)

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
