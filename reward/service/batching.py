"""Batches by token budget across all clients: oldest first, bounded, each item answered once."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Protocol, TypeVar

from reward.service.errors import ServiceError

M = TypeVar("M", bound=Hashable)

MAX_ATTEMPTS = 4
"""Forwards of one item before it counts as the cause; from the third on it goes alone."""

FIRST_PAUSE_S = 0.05
LONGEST_RETRY_AFTER_S = 60


class ForwardFailed(Exception):
    """A batch came back without scores: its replica died, or the forward raised."""


class NotFinite(Exception):
    """An item whose score is no number; its neighbours have theirs."""


class ItemFailed(Exception):
    """An item that had no score after several forwards, alone in the last of them."""


class Observer(Protocol):
    """What the batcher reports."""

    def batch(self, items: int, tokens: int, budget: int, seconds: float) -> None:
        """A batch was scored."""

    def retry(self, items: int) -> None:
        """A batch failed and goes back into the queue."""

    def dropped(self, reason: str) -> None:
        """An item left the queue without a forward."""

    def load(self, tokens: int) -> None:
        """Tokens that wait or are in work have changed."""


@dataclass(eq=False)
class Entry(Generic[M]):
    """One item on its way: the model that must score it, its tokens, its latest moment."""

    model: M
    tokens: Sequence[int]
    deadline: float
    answer: "asyncio.Future[float]"
    attempts: int = 0


@dataclass
class Batcher(Generic[M]):
    """Queue and dispatcher; lives in one event loop.

    `forward(model, inputs)` gives one score per input, None where it is no number, and raises
    ForwardFailed. `lanes()` says how many replicas can work at the same time.
    """

    forward: Callable[[M, list[Sequence[int]]], Awaitable[Sequence[float | None]]]
    batch_tokens: int
    queue_tokens: int
    lanes: Callable[[], int]
    observer: Observer
    load: int = 0
    """Tokens that wait or are in work."""
    rate: float = 0.0
    """Tokens per second of recent batches, over all replicas."""
    _queue: "deque[Entry[M]]" = field(default_factory=deque)
    _running: "set[asyncio.Task[None]]" = field(default_factory=set)

    def submit(self, model: M, inputs: Sequence[Sequence[int]], deadline: float) -> list[Entry[M]]:
        """Queue the inputs of one request, all or none.

        `deadline` is a time of the running loop. Raises ServiceError 413 for more than the queue
        can ever hold, 429 with the seconds after which there may be room.
        """
        tokens = sum(map(len, inputs))
        if tokens > self.queue_tokens:
            raise ServiceError(
                413,
                "too_many_tokens",
                f"the request has {tokens} tokens, the queue holds {self.queue_tokens}: send "
                "smaller requests",
            )
        if self.load + tokens > self.queue_tokens:
            raise self.full()
        loop = asyncio.get_running_loop()
        entries = [Entry(model, part, deadline, loop.create_future()) for part in inputs]
        for entry in entries:
            self._weigh(len(entry.tokens))
            entry.answer.add_done_callback(partial(self._leave, len(entry.tokens)))
        self._queue.extend(entries)
        self.dispatch()
        return entries

    def full(self) -> ServiceError:
        """The 429 of a full queue."""
        wait = math.ceil(self.load / self.rate) if self.rate else 1
        return ServiceError(
            429,
            "queue_full",
            f"{self.load} of {self.queue_tokens} tokens are waiting or in work",
            retry_after_s=min(max(wait, 1), LONGEST_RETRY_AFTER_S),
        )

    def dispatch(self) -> None:
        """Start as many batches as replicas can take; called whenever that may have changed.

        A replica is given a second batch while it works on one only if that batch is full: what
        waits here can still be joined by others.
        """
        while self._queue:
            lanes = max(1, self.lanes())
            waiting = sum(len(entry.tokens) for entry in self._queue)
            full = waiting >= self.batch_tokens
            if len(self._running) >= (2 * lanes if full else lanes):
                return
            batch = self._take()
            if batch:
                task = asyncio.get_running_loop().create_task(self._serve(batch))
                self._running.add(task)
                task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self.dispatch()

    def _leave(self, tokens: int, _: "asyncio.Future[float]") -> None:
        self._weigh(-tokens)

    def _weigh(self, tokens: int) -> None:
        self.load += tokens
        self.observer.load(self.load)

    def _take(self) -> list[Entry[M]]:
        """The oldest live item and what fits beside it, for the same model."""
        now = asyncio.get_running_loop().time()
        batch: list[Entry[M]] = []
        left: deque[Entry[M]] = deque()
        room = self.batch_tokens
        while self._queue:
            entry = self._queue.popleft()
            if entry.answer.done():
                self.observer.dropped("left")
            elif entry.deadline <= now:
                self.observer.dropped("deadline")
                entry.answer.set_exception(TimeoutError())
            elif not batch or (
                entry.model == batch[0].model
                and len(entry.tokens) <= room
                and max(entry.attempts, batch[0].attempts) < MAX_ATTEMPTS - 2
            ):
                batch.append(entry)
                room -= len(entry.tokens)
            else:
                left.append(entry)
        self._queue = left
        return sorted(batch, key=lambda entry: len(entry.tokens))

    async def _serve(self, batch: list[Entry[M]]) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            scores = await self.forward(batch[0].model, [entry.tokens for entry in batch])
        except ForwardFailed as failure:
            await self._again(batch, failure)
            return
        seconds = loop.time() - start
        tokens = sum(len(entry.tokens) for entry in batch)
        self._measure(tokens, seconds)
        self.observer.batch(len(batch), tokens, self.batch_tokens, seconds)
        for entry, score in zip(batch, scores, strict=True):
            if entry.answer.done():
                continue
            if score is None:
                entry.answer.set_exception(NotFinite("the model's score is no number"))
            else:
                entry.answer.set_result(score)

    async def _again(self, batch: list[Entry[M]], failure: ForwardFailed) -> None:
        self.observer.retry(len(batch))
        # The router needs a moment to learn of a death; without it all attempts go the same way.
        await asyncio.sleep(FIRST_PAUSE_S * 2 ** batch[0].attempts)
        for entry in reversed(batch):
            entry.attempts += 1
            if entry.answer.done():
                continue
            if entry.attempts >= MAX_ATTEMPTS:
                entry.answer.set_exception(ItemFailed(str(failure)))
            else:
                self._queue.appendleft(entry)

    def _measure(self, tokens: int, seconds: float) -> None:
        now = tokens / max(seconds, 1e-6) * max(1, min(len(self._running), self.lanes()))
        self.rate = now if not self.rate else 0.8 * self.rate + 0.2 * now
