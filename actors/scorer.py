"""The scorer: the conditional reward model, frozen, one version for each batch.

It runs in the scorer's own ranks, or behind a reward service that several jobs share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.group import Group, Pending, done
from actors.placement import Placement
from actors.scoring import Answer, Judged, SamplesRefused, Scored, ScoreError, ScorerSettings
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
        from actors.engines.frozen import share_frozen
        from reward.model import RewardModel

        self.model: RewardModel = RewardModel.load(folder, self.place.device)
        share_frozen(self.model.network.requires_grad_(False))

    def score(self, rows: Sequence[tuple[Sequence[Message], str]]) -> tuple[list[Answer], str]:
        """Answers to (conversation, condition) rows, and the model's version."""
        from reward.card import RewardModelError

        inputs: dict[int, list[int]] = {}
        answers: list[Answer] = [""] * len(rows)
        for index, (conversation, condition) in enumerate(rows):
            try:
                inputs[index] = self.model.input(conversation, condition)
            except (RewardInputError, UnknownCondition) as error:
                answers[index] = str(error)
        try:
            scores: Sequence[Answer] = self._judged(list(inputs.values()))
        except RewardModelError:
            scores = [self._alone(tokens) for tokens in inputs.values()]
        for index, score in zip(inputs, scores, strict=True):
            answers[index] = score
        return answers, self.model.version

    def _judged(self, inputs: Sequence[Sequence[int]]) -> list[Judged]:
        if self.model.card.heads < 2:
            return [Judged(score) for score in self.model.score(inputs).tolist()]
        scores, spreads = self.model.score_with_spread(inputs)
        return [Judged(*both) for both in zip(scores.tolist(), spreads.tolist(), strict=True)]

    def _alone(self, tokens: Sequence[int]) -> Answer:
        from reward.card import RewardModelError

        try:
            return self._judged([tokens])[0]
        except RewardModelError as error:
            return str(error)


class Scorer:
    """Driver-side handle."""

    def __init__(self, group: Group, settings: ScorerSettings) -> None:
        self.group = group
        self.settings = settings

    @classmethod
    def start(
        cls,
        settings: ScorerSettings | None = None,
        placement: Placement | Group | None = None,
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
        self,
        conversations: Sequence[Sequence[Message]],
        conditions: Sequence[str],
        names: Sequence[str] | None = None,
    ) -> Pending[Scored]:
        """Score each conversation under its one condition; `names` default to "sample 0", ….

        Raises ValueError when the counts differ; SamplesRefused naming those without a finite
        score; ScoreError when several models gave the scores.
        """
        if len(conversations) != len(conditions):
            raise ValueError(f"{len(conversations)} conversations, {len(conditions)} conditions")
        names = names or [f"sample {index}" for index in range(len(conversations))]
        rows = [(tuple(m), c) for m, c in zip(conversations, conditions, strict=True)]
        ranks = self.group.world_size
        shards = [(rows[rank::ranks],) for rank in range(ranks)]

        def join(parts: list[tuple[list[Answer], str]]) -> Scored:
            versions = sorted({version for _, version in parts})
            if len(versions) > 1:
                raise ScoreError(f"one batch was scored by several models: {versions}")
            answers: list[Answer] = [""] * len(rows)
            for rank, (shard, _) in enumerate(parts):
                answers[rank::ranks] = shard
            pairs = zip(names, answers, strict=True)
            refused = {name: answer for name, answer in pairs if isinstance(answer, str)}
            if refused:
                raise SamplesRefused(refused)
            judged = [answer for answer in answers if isinstance(answer, Judged)]
            return Scored([j.value for j in judged], versions[0], [j.spread for j in judged])

        return self.group.scatter("score", shards).then(join)

    def close(self) -> None:
        """End the ranks."""
        self.group.close()
