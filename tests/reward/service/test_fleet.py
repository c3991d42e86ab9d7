import asyncio
from collections.abc import Awaitable, Callable

import pytest

from reward.service.errors import ServiceError
from reward.service.fleet import GONE_S, Fleet, Report
from reward.service.models import ModelRef

OLD, NEW = ModelRef("/a", "old", "1"), ModelRef("/b", "new", "2")


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_switch_comes_when_the_last_replica_holds_the_new_model() -> None:
    async def test() -> None:
        fleet = Fleet(OLD)
        for name in ("x", "y"):
            assert fleet.beat(Report(name, 1, (OLD,))) == (OLD,)
        assert fleet.switched
        swap = asyncio.create_task(fleet.swap(NEW, 60))
        await settle()
        with fleet.pin() as pinned:
            assert fleet.beat(Report("x", 1, (OLD, NEW))) == (OLD, NEW)
            await settle()
            assert fleet.current == OLD
            with pytest.raises(ServiceError, match="swap to new runs"):
                await fleet.swap(NEW, 60)
            fleet.beat(Report("y", 1, (OLD, NEW)))
            await settle()
            assert (pinned, fleet.current) == (OLD, NEW)
            # The old one stays loaded for the request that pinned it.
            assert fleet.beat(Report("x", 1, (OLD, NEW), (), NEW)) == (NEW, OLD)
            assert not fleet.switched
            await settle()
            assert not swap.done()  # the other replica does not know of the switch yet
            fleet.beat(Report("y", 1, (OLD, NEW), (), NEW))
            await swap
        assert fleet.beat(Report("x", 1, (NEW,))) == (NEW,)
        assert not fleet.switched
        fleet.beat(Report("y", 1, (NEW,)))
        assert fleet.switched

    run(test)


def test_one_replicas_refusal_keeps_the_old_model() -> None:
    async def test() -> None:
        fleet = Fleet(OLD)
        fleet.beat(Report("x", 1, (OLD,), ((NEW, "a reason of before"),)))
        swap = asyncio.create_task(fleet.swap(NEW, 60))
        await settle()
        assert not swap.done()
        fleet.beat(Report("x", 1, (OLD,), ((NEW, "weights are NaN"),)))
        with pytest.raises(ServiceError, match="weights are NaN"):
            await swap
        assert fleet.current == OLD
        assert fleet.wanted() == (OLD,)

    run(test)


def test_a_silent_replica_holds_up_nothing_for_long() -> None:
    async def test() -> None:
        now = 0.0
        fleet = Fleet(OLD, clock=lambda: now)
        fleet.beat(Report("dead", 1, (OLD,)))
        fleet.beat(Report("x", 1, (OLD,)))
        swap = asyncio.create_task(fleet.swap(NEW, 60))
        await settle()
        now = GONE_S + 1
        fleet.beat(Report("x", 1, (OLD, NEW), (), NEW))
        await swap
        assert fleet.size == 1

    run(test)


def test_a_swap_that_takes_too_long_is_given_up() -> None:
    async def test() -> None:
        fleet = Fleet(OLD)
        fleet.beat(Report("x", 1, (OLD,)))
        with pytest.raises(ServiceError) as late:
            await fleet.swap(NEW, 0.01)
        assert late.value.status == 504
        assert fleet.wanted() == (OLD,)

    run(test)
