"""From requests to scores: pin a model, build inputs, queue them, answer each item."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pretrain_core.chat import ChatError
from pretrain_core.errors import InputError
from reward.conditions import UnknownCondition
from reward.inputs import InputTooLong, RewardInputError
from reward.service.batching import Batcher, ItemFailed, NotFinite
from reward.service.errors import ServiceError
from reward.service.fleet import Fleet, Report
from reward.service.idempotency import Once
from reward.service.metrics import Metrics
from reward.service.models import ModelRef, incompatible, input_builder, reference
from reward.service.schemas import (
    ItemScore,
    ModelStatus,
    Refusal,
    ReplicaStatus,
    ScoreAnswer,
    ScoreItem,
    ScoreRequest,
)
from reward.service.settings import ServiceSettings

if TYPE_CHECKING:
    from reward.model import RewardModel

Forward = Callable[[ModelRef, list[Sequence[int]]], Awaitable[Sequence[float | None]]]
CHARACTERS_PER_TOKEN = 4
"""Guess of a request's weight while it waits for its tokens; replaced by their number."""


class Gateway:
    """The service without HTTP and without Ray: `forward` runs a batch on some replica."""

    def __init__(self, settings: ServiceSettings, folder: Path, forward: Forward) -> None:
        """Raises RewardModelError for a folder that is no reward model."""
        self.settings = settings
        self.metrics = Metrics()
        ref = reference(folder)
        self.fleet = Fleet(ref)
        self._builders = {ref: input_builder(Path(ref.folder))}
        self.batcher: Batcher[ModelRef] = Batcher(
            forward,
            settings.batch_tokens,
            settings.queue_tokens,
            lanes=lambda: self.fleet.size,
            observer=self.metrics,
        )
        self._once: Once[ScoreAnswer] = Once(settings.idempotency_entries, settings.idempotency_s)
        # One thread: fast tokenizers are not safe to share, and the event loop stays free.
        self._tokenising = ThreadPoolExecutor(1, "tokenise")
        self._guessed = 0

    def beat(self, report: Report) -> tuple[ModelRef, ...]:
        """A replica says what it holds and hears what it should hold."""
        adopted = self.fleet.adopted(report)
        if adopted is not None:
            self._builders[adopted] = input_builder(Path(adopted.folder))
            self.fleet.current = adopted
        wanted = self.fleet.beat(report)
        self.batcher.dispatch()
        return wanted

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        """Score all items of a request with one model; items that cannot be scored say why.

        Raises ServiceError: 413 and 429 from the queue, 422 for a deadline above the limit or a
        key that came with other items, 504 when the deadline passes first.
        """
        longest = self.settings.longest_deadline_ms
        milliseconds = request.deadline_ms or self.settings.deadline_ms
        if milliseconds > longest:
            raise ServiceError(422, "deadline_too_long", f"deadline_ms is at most {longest}")
        deadline = asyncio.get_running_loop().time() + milliseconds / 1000
        if request.idempotency_key is None:
            return await self._score(request.items, deadline)
        answer, shared = await self._once.run(
            request.idempotency_key,
            fingerprint(request.items),
            lambda: self._score(request.items, deadline),
        )
        if shared:
            self.metrics.shared()
        return answer

    async def _score(self, items: Sequence[ScoreItem], deadline: float) -> ScoreAnswer:
        try:
            async with asyncio.timeout_at(deadline):
                await self.fleet.heard.wait()
                with self.fleet.pin() as ref:
                    scores = await self._score_with(ref, items, deadline)
        except TimeoutError as error:
            raise ServiceError(504, "deadline", "the deadline passed before all scores") from error
        for item in scores:
            if item.error is not None:
                self.metrics.failure(item.error.reason)
        return ScoreAnswer(scores=tuple(scores), version=ref.version, model=self.settings.name)

    async def _score_with(
        self, ref: ModelRef, items: Sequence[ScoreItem], deadline: float
    ) -> list[ItemScore]:
        inputs = await self._inputs(ref, items)
        entries = self.batcher.submit(
            ref, [found for found in inputs if not isinstance(found, Refusal)], deadline
        )
        try:
            outcomes = iter(
                await asyncio.gather(*(e.answer for e in entries), return_exceptions=True)
            )
        finally:
            for entry in entries:
                entry.answer.cancel()
        scores = []
        for item, found in zip(items, inputs, strict=True):
            outcome = found if isinstance(found, Refusal) else next(outcomes)
            scores.append(_item_score(item.id, outcome))
        return scores

    async def _inputs(self, ref: ModelRef, items: Sequence[ScoreItem]) -> list[list[int] | Refusal]:
        """Tokens of each item or why it has none, built outside the event loop."""
        characters = sum(len(message.content) for item in items for message in item.messages)
        guess = characters // CHARACTERS_PER_TOKEN
        if self.batcher.load and self.batcher.load + self._guessed + guess > (
            self.settings.queue_tokens
        ):
            raise self.batcher.full()
        self._guessed += guess
        try:
            builder = self._builders[ref]
            return await asyncio.get_running_loop().run_in_executor(
                self._tokenising, lambda: [build_input(builder, item) for item in items]
            )
        finally:
            self._guessed -= guess

    async def swap(self, folder: str) -> ModelStatus:
        """Serve another folder; returns when every later request is answered by it.

        Raises ServiceError 422 with the reason when the folder is refused (the old model stays),
        409 while another swap runs.
        """
        try:
            await self._swap(Path(folder))
        except ServiceError as error:
            self.metrics.swap(error.reason)
            raise
        self.metrics.swap("done")
        return self.status()

    async def _swap(self, folder: Path) -> None:
        loop = asyncio.get_running_loop()
        current = self.fleet.current
        try:
            ref = await loop.run_in_executor(self._tokenising, reference, folder)
            if (ref.version, ref.hash) == (current.version, current.hash):
                return
            if ref.version == current.version:
                raise ServiceError(
                    422,
                    "model_refused",
                    f"{folder}: its version {ref.version} is served now, with other weights: save "
                    "the model anew",
                )
            builder = await loop.run_in_executor(self._tokenising, input_builder, Path(ref.folder))
        except (InputError, OSError) as error:
            raise ServiceError(422, "model_refused", str(error)) from error
        reason = incompatible(self._builders[current].conditions, builder.conditions)
        if reason:
            raise ServiceError(422, "model_refused", f"{folder}: {reason}")
        self._builders.setdefault(ref, builder)
        try:
            await self.fleet.swap(ref, self.settings.swap_timeout_s)
        finally:
            wanted = self.fleet.wanted()
            self._builders = {r: b for r, b in self._builders.items() if r in wanted}

    def status(self) -> ModelStatus:
        """What is served, and what each replica holds."""
        ref = self.fleet.current
        card = self._builders[ref].card
        return ModelStatus(
            model=self.settings.name,
            version=ref.version,
            hash=ref.hash,
            conditions=tuple(card.conditions.names),
            conditions_hash=card.conditions.hash,
            max_length=card.max_length,
            replicas=tuple(
                ReplicaStatus(
                    replica=report.replica,
                    pid=report.pid,
                    version=ref.version if ref in report.holds else None,
                    loaded=tuple(held.version for held in report.holds),
                )
                for report in sorted(self.fleet.reports(), key=lambda r: r.replica)
            ),
            switched=self.fleet.switched,
        )


def build_input(builder: "RewardModel", item: ScoreItem) -> list[int] | Refusal:
    """The tokens of an item by `RewardModel.input`, or the reason there are none."""
    reason: Literal["too_long", "unknown_condition", "bad_conversation"]
    try:
        return builder.input(item.messages, item.condition)
    except InputTooLong as error:
        reason, message = "too_long", str(error)
    except UnknownCondition as error:
        reason, message = "unknown_condition", str(error)
    except (RewardInputError, ChatError) as error:
        reason, message = "bad_conversation", str(error)
    return Refusal(reason=reason, message=message)


def _item_score(name: str | None, outcome: float | Refusal | BaseException) -> ItemScore:
    if isinstance(outcome, float):
        return ItemScore(id=name, score=outcome)
    if isinstance(outcome, Refusal):
        return ItemScore(id=name, error=outcome)
    if isinstance(outcome, NotFinite):
        return ItemScore(id=name, error=Refusal(reason="not_finite", message=str(outcome)))
    if isinstance(outcome, ItemFailed):
        return ItemScore(id=name, error=Refusal(reason="failed", message=str(outcome)))
    raise outcome


def fingerprint(items: Sequence[ScoreItem]) -> str:
    """Digest of what is asked, without the deadline, which differs from retry to retry."""
    content = hashlib.sha256()
    for item in items:
        content.update(item.model_dump_json().encode() + b"\n")
    return content.hexdigest()
