"""The scorer's rank when a reward service scores: the same calls, sent over HTTP."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.scoring import Answer, Judged, ScoreError, ScorerSettings
from actors.worker import Rank, Worker
from pretrain_core.chat import Message
from pretrain_core.errors import InputError
from reward.card import read_card
from reward.service.policies import ItemRefused, Retry, Stop

if TYPE_CHECKING:
    from reward.service.blocking import BlockingRewardClient
    from reward.service.schemas import ModelStatus


class ServiceScorerWorker(Worker):
    """One rank that holds no model; tokens come as call arguments, never as settings."""

    def __init__(self, place: Rank, settings: ScorerSettings) -> None:
        super().__init__(place)
        self.settings = settings
        self.version: str | None = None
        self.client: BlockingRewardClient | None = None

    def load(self, folder: Path, token: str, admin: str | None) -> None:
        """See that the service serves this folder's version; with `admin`, have it do so.

        Raises InputError when it serves another one and there is no admin token.
        """
        if self.client is not None:
            self.client.close()
        self.client = self._connect(token)
        wanted = read_card(folder).version
        served = self.client.models(self.settings.deadline)
        if served.version != wanted and admin is not None:
            served = self._swap(folder, admin)
        if served.version != wanted:
            raise InputError(
                f"the service at {self.settings.url} serves {served.version}, {folder} is "
                f"{wanted}: serve that folder, or set {self.settings.admin_token_env} so that it "
                "is swapped in"
            )
        self.version = wanted

    def score(self, rows: Sequence[tuple[Sequence[Message], str]]) -> tuple[list[Answer], str]:
        """Answers to (conversation, condition) rows, and the version that gave all scores."""
        if self.client is None:
            raise ScoreError("the scorer was not loaded")
        items = {
            index: {"messages": conversation, "condition": condition, "id": str(index)}
            for index, (conversation, condition) in enumerate(rows)
        }
        answers: list[Answer] = [""] * len(rows)
        while True:
            try:
                scores = self.client.score(list(items.values()), self.settings.deadline)
                break
            except ItemRefused as refused:
                index = list(items)[refused.index]
                answers[index] = f"{refused.reason}: {refused.message}"
                del items[index]
        if scores.version != self.version:
            raise ScoreError(
                f"the service changed from {self.version} to {scores.version} within a run: "
                "reward models change between iterations, by `load`"
            )
        for index, value in zip(items, scores.values, strict=True):
            answers[index] = Judged(value)
        return answers, scores.version

    def _connect(self, token: str) -> BlockingRewardClient:
        from reward.service.blocking import BlockingRewardClient

        policy: Any = Retry() if self.settings.on_failure == "retry" else Stop()
        return BlockingRewardClient(str(self.settings.url), token, policy=policy)

    def _swap(self, folder: Path, admin: str) -> ModelStatus:
        with self._connect(admin) as client:
            return client.swap(folder.resolve())


def service_tokens(settings: ScorerSettings) -> tuple[str, str | None]:
    """(token, admin token or None) of this process's environment; InputError without the first."""
    token = os.environ.get(settings.token_env, "").strip()
    if not token:
        raise InputError(f"scorer.kind service needs the service's token in {settings.token_env}")
    return token, os.environ.get(settings.admin_token_env, "").strip() or None
