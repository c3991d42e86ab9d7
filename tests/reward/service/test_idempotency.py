import asyncio
from collections.abc import Awaitable, Callable

import pytest

from reward.service.errors import ServiceError
from reward.service.idempotency import Once


class Work:
    """Counts how often it is computed; waits until the test lets it finish."""

    def __init__(self) -> None:
        self.runs = 0
        self.cancelled = 0
        self.open = asyncio.Event()

    async def __call__(self) -> int:
        self.runs += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.runs


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_duplicates_wait_for_the_first_and_repeats_get_its_answer() -> None:
    async def test() -> None:
        once: Once[int] = Once(10, 60.0)
        work = Work()
        calls = [asyncio.create_task(once.run("key", "a", work)) for _ in range(5)]
        await settle()
        work.open.set()
        assert sorted(await asyncio.gather(*calls)) == [(1, False), *[(1, True)] * 4]
        assert await once.run("key", "a", work) == (1, True)
        with pytest.raises(ServiceError, match="other items"):
            await once.run("key", "b", work)
        assert work.runs == 1

    run(test)


def test_a_failure_is_not_kept() -> None:
    async def test() -> None:
        once: Once[int] = Once(10, 60.0)

        async def fail() -> int:
            raise ServiceError(504, "deadline", "late")

        with pytest.raises(ServiceError, match="late"):
            await once.run("key", "a", fail)
        assert len(once) == 0

        async def succeed() -> int:
            return 7

        assert await once.run("key", "a", succeed) == (7, False)

    run(test)


def test_work_goes_on_while_one_caller_waits_and_ends_with_the_last() -> None:
    async def test() -> None:
        once: Once[int] = Once(10, 60.0)
        work = Work()
        first, second = (asyncio.create_task(once.run("key", "a", work)) for _ in range(2))
        await settle()
        first.cancel()
        await settle()
        assert work.cancelled == 0
        second.cancel()
        await settle()
        assert work.cancelled == 1
        assert len(once) == 0

    run(test)


def test_the_store_is_bounded_in_number_and_time() -> None:
    async def test() -> None:
        now = 0.0
        once: Once[str] = Once(3, 60.0, clock=lambda: now)

        async def work() -> str:
            return "done"

        for number in range(5):
            await once.run(str(number), "a", work)
        assert len(once) == 3
        assert await once.run("4", "a", work) == ("done", True)
        assert await once.run("0", "a", work) == ("done", False)
        now = 61.0
        assert await once.run("4", "a", work) == ("done", False)
        assert len(once) == 1

    run(test)
