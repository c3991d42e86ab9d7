"""The batcher with a forward that the test controls: no model, no clock of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.service.batching import MAX_ATTEMPTS, Batcher, ForwardFailed, ItemFailed, NotFinite
from reward.service.errors import ServiceError


class Log:
    """Counts what the batcher reports."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []
        self.retried = 0
        self.drops: list[str] = []
        self.highest = 0

    def batch(self, items: int, tokens: int, budget: int, seconds: float) -> None:
        self.batches.append((items, tokens))

    def retry(self, items: int) -> None:
        self.retried += items

    def dropped(self, reason: str) -> None:
        self.drops.append(reason)

    def load(self, tokens: int) -> None:
        self.highest = max(self.highest, tokens)


class Gate:
    """A forward that waits until the test lets a batch through; scores are the first tokens."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[Sequence[int]]]] = []
        self.open = asyncio.Event()

    async def __call__(self, model: str, inputs: list[Sequence[int]]) -> list[float | None]:
        self.calls.append((model, inputs))
        await self.open.wait()
        return [float(tokens[0]) for tokens in inputs]


def item(value: int, length: int) -> list[int]:
    return [value] * length


def batcher(forward: Any, *, batch: int = 10, queue: int = 100, lanes: int = 1) -> Batcher[str]:
    return Batcher(forward, batch, queue, lambda: lanes, Log())


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


def later(seconds: float = 100.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_requests_of_many_clients_share_batches_oldest_first() -> None:
    async def test() -> None:
        gate = Gate()
        queue = batcher(gate)
        first = queue.submit("m", [item(1, 4)], later())
        rest = [
            queue.submit("m", [item(n, length)], later()) for n, length in ((2, 6), (3, 7), (4, 3))
        ]
        await settle()
        assert len(gate.calls) == 2  # one in work; more than a batch waits, so one was sent ahead
        gate.open.set()
        scores = [await entry.answer for entries in (first, *rest) for entry in entries]
        assert scores == [1.0, 2.0, 3.0, 4.0]
        assert [[t[0] for t in inputs] for _, inputs in gate.calls] == [[1], [2], [4, 3]]
        assert queue.load == 0

    run(test)


def test_a_batch_never_mixes_models() -> None:
    async def test() -> None:
        gate = Gate()
        gate.open.set()
        queue = batcher(gate, batch=100)
        entries = [queue.submit(model, [item(1, 2)], later())[0] for model in "aabab"]
        await asyncio.gather(*(entry.answer for entry in entries))
        assert [(model, len(inputs)) for model, inputs in gate.calls] == [
            ("a", 1),
            ("a", 2),
            ("b", 2),
        ]

    run(test)


def test_an_item_past_its_deadline_is_dropped_before_the_forward() -> None:
    async def test() -> None:
        gate = Gate()
        queue = batcher(gate)
        busy = queue.submit("m", [item(1, 1)], later())
        late = queue.submit("m", [item(2, 1)], later(-1))
        gate.open.set()
        with pytest.raises(TimeoutError):
            await late[0].answer
        assert await busy[0].answer == 1.0
        assert [t[0] for _, inputs in gate.calls for t in inputs] == [1]
        assert queue.observer.drops == ["deadline"]  # type: ignore[attr-defined]

    run(test)


def test_what_a_client_left_is_not_scored_and_frees_its_room() -> None:
    async def test() -> None:
        gate = Gate()
        queue = batcher(gate)
        busy = queue.submit("m", [item(1, 1)], later())
        left = queue.submit("m", [item(2, 5)], later())
        assert queue.load == 6
        left[0].answer.cancel()
        await settle()
        assert queue.load == 1
        gate.open.set()
        await busy[0].answer
        await settle()
        assert [t[0] for _, inputs in gate.calls for t in inputs] == [1]

    run(test)


def test_the_queue_is_bounded_in_tokens() -> None:
    async def test() -> None:
        gate = Gate()
        queue = batcher(gate, queue=20)
        queue.submit("m", [item(1, 15)], later())
        with pytest.raises(ServiceError) as full:
            queue.submit("m", [item(1, 3), item(2, 3)], later())
        assert (full.value.status, full.value.reason) == (429, "queue_full")
        assert int(full.value.headers()["Retry-After"]) >= 1
        assert queue.load == 15  # all or nothing
        with pytest.raises(ServiceError) as never:
            queue.submit("m", [item(1, 21)], later())
        assert never.value.status == 413
        gate.open.set()
        await settle()
        queue.submit("m", [item(1, 20)], later())

    run(test)


def test_a_lost_batch_is_scored_again_once_each() -> None:
    async def test() -> None:
        seen: list[int] = []

        async def forward(model: str, inputs: list[Sequence[int]]) -> list[float]:
            seen.append(len(inputs))
            if len(seen) == 1:
                raise ForwardFailed("the replica died")
            return [float(tokens[0]) for tokens in inputs]

        queue = batcher(forward)
        entries = queue.submit("m", [item(n, 2) for n in range(4)], later())
        assert [await entry.answer for entry in entries] == [0.0, 1.0, 2.0, 3.0]
        assert seen == [4, 4]
        await settle()
        assert queue.load == 0

    run(test)


def test_an_item_that_kills_its_replica_fails_alone() -> None:
    async def test() -> None:
        async def forward(model: str, inputs: list[Sequence[int]]) -> list[float]:
            if any(tokens[0] == 2 for tokens in inputs):
                raise ForwardFailed("out of memory")
            return [float(tokens[0]) for tokens in inputs]

        queue = batcher(forward)
        entries = queue.submit("m", [item(n, 2) for n in range(4)], later())
        found = await asyncio.gather(*(e.answer for e in entries), return_exceptions=True)
        assert [found[0], found[1], found[3]] == [0.0, 1.0, 3.0]
        assert isinstance(found[2], ItemFailed)
        assert entries[2].attempts == MAX_ATTEMPTS

    run(test)


def test_a_score_that_is_no_number_stays_with_its_item() -> None:
    async def test() -> None:
        async def forward(model: str, inputs: list[Sequence[int]]) -> list[float | None]:
            return [None if tokens[0] == 1 else 0.5 for tokens in inputs]

        queue = batcher(forward)
        entries = queue.submit("m", [item(n, 1) for n in range(3)], later())
        found = await asyncio.gather(*(e.answer for e in entries), return_exceptions=True)
        assert [found[0], found[2]] == [0.5, 0.5]
        assert isinstance(found[1], NotFinite)

    run(test)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    budget=st.integers(1, 40),
    lanes=st.integers(1, 3),
    fails=st.sets(st.integers(0, 10), max_size=2),
)
def test_every_item_is_answered_once_whatever_comes(
    lengths: list[int], budget: int, lanes: int, fails: set[int]
) -> None:
    """Faults 1 and 14: nothing lost, nothing twice, no batch above the budget but single items."""

    async def test() -> None:
        calls = 0
        scored: list[int] = []

        async def forward(model: str, inputs: list[Sequence[int]]) -> list[float]:
            nonlocal calls
            calls += 1
            if calls - 1 in fails:
                raise ForwardFailed("lost")
            await asyncio.sleep(0)
            assert len(inputs) == 1 or sum(map(len, inputs)) <= budget
            assert [len(tokens) for tokens in inputs] == sorted(len(tokens) for tokens in inputs)
            scored.extend(tokens[0] for tokens in inputs)
            return [float(tokens[0]) for tokens in inputs]

        queue = batcher(forward, batch=budget, queue=10**6, lanes=lanes)
        entries = [
            entry
            for start in range(0, len(lengths), 3)
            for entry in queue.submit(
                "m",
                [item(n, lengths[n]) for n in range(start, min(start + 3, len(lengths)))],
                later(),
            )
        ]
        assert [await entry.answer for entry in entries] == [float(n) for n in range(len(lengths))]
        assert sorted(scored) == list(range(len(lengths)))
        await settle()
        assert queue.load == 0

    run(test)
