"""One key, one answer: repeated requests share a running computation or its stored result."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from reward.service.errors import ServiceError

T = TypeVar("T")


@dataclass
class _Entry(Generic[T]):
    fingerprint: str
    task: "asyncio.Task[T]"
    waiting: int = 0
    finished: float | None = None


class Once(Generic[T]):
    """Least recently used answers, at most `entries` of them, each for `seconds`.

    Only success is stored: after a failure the same key computes again. A computation that all
    its callers have left is cancelled.
    """

    def __init__(
        self, entries: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size = entries
        self._seconds = seconds
        self._clock = clock
        self._kept: OrderedDict[str, _Entry[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    async def run(
        self, key: str, fingerprint: str, compute: Callable[[], Awaitable[T]]
    ) -> tuple[T, bool]:
        """(answer, whether it was shared) of `compute()`, run once for each key.

        Raises ServiceError 422 when the key came with another `fingerprint` before.
        """
        self._forget_old()
        entry = self._kept.get(key)
        shared = entry is not None
        if entry is None:
            entry = _Entry(fingerprint, asyncio.ensure_future(_awaited(compute)))
            self._kept[key] = entry
        elif entry.fingerprint != fingerprint:
            raise ServiceError(
                422,
                "key_reused",
                "this idempotency key came with other items before: use a new one",
            )
        self._kept.move_to_end(key)
        entry.waiting += 1
        try:
            answer = await asyncio.shield(entry.task)
        finally:
            entry.waiting -= 1
            if not entry.task.done() and not entry.waiting:
                entry.task.cancel()
            succeeded = (
                entry.task.done() and not entry.task.cancelled() and not entry.task.exception()
            )
            if succeeded:
                entry.finished = entry.finished or self._clock()
            elif (entry.task.done() or not entry.waiting) and self._kept.get(key) is entry:
                del self._kept[key]
        self._forget_old()
        return answer, shared

    def _forget_old(self) -> None:
        limit = self._clock() - self._seconds
        done = [k for k, e in self._kept.items() if e.finished is not None]
        for index, key in enumerate(done):
            finished = self._kept[key].finished
            if (finished is not None and finished < limit) or index < len(done) - self._size:
                del self._kept[key]


async def _awaited(compute: Callable[[], Awaitable[T]]) -> T:
    return await compute()
