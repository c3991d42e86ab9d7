"""The client against a scripted service: retries, keys, replacements, one version."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from reward.service.blocking import BlockingRewardClient
from reward.service.client import RewardClient, chunks
from reward.service.policies import (
    FailurePolicy,
    Item,
    ItemRefused,
    Resample,
    Retry,
    RewardRequestError,
    RewardUnavailable,
    Stop,
)

QUICK = Retry(attempts=4, first_s=0.001, longest_s=0.002)
Handler = Callable[[dict[str, Any], int], httpx.Response]


def item(reply: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": reply}]
    return {"messages": messages}


def scored(body: dict[str, Any], version: str = "v1") -> httpx.Response:
    """The score of a reply is its length; a reply `bad` is refused."""
    replies = [i["messages"][-1]["content"] for i in body["items"]]
    scores = [
        {"error": {"reason": "too_long", "message": "no"}} if r == "bad" else {"score": len(r)}
        for r in replies
    ]
    return httpx.Response(200, json={"scores": scores, "version": version, "model": "m"})


def run(
    handler: Handler,
    test: Callable[[RewardClient], Awaitable[None]],
    policy: FailurePolicy = QUICK,
    **options: Any,
) -> list[dict[str, Any]]:
    """Run `test` against a service that answers `handler(body, number of the request)`."""
    seen: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer secret"
        seen.append(json.loads(request.content))
        return handler(seen[-1], len(seen) - 1)

    async def go() -> None:
        transport = httpx.MockTransport(answer)
        client = RewardClient("http://s", "secret", policy=policy, transport=transport, **options)
        async with client:
            await asyncio.wait_for(test(client), 20)

    asyncio.run(go())
    return seen


def test_chunks_keep_order_and_limits() -> None:
    items = [item("x" * n) for n in (5, 5, 90, 200, 1, 1, 1)]
    assert chunks(items, 3, 100) == [[0, 1], [2], [3], [4, 5, 6]]
    assert chunks([], 3, 100) == []


def test_scores_come_back_in_order() -> None:
    async def test(client: RewardClient) -> None:
        scores = await client.score([item("x" * n) for n in range(1, 8)])
        assert scores.values == tuple(float(n) for n in range(1, 8))
        assert (scores.version, scores.model) == ("v1", "m")

    assert len(run(lambda body, _: scored(body), test, chunk_items=3)) == 3


@pytest.mark.parametrize("status", [429, 500, 503, 504])
def test_what_may_pass_is_tried_again_under_the_same_key(status: int) -> None:
    def handler(body: dict[str, Any], number: int) -> httpx.Response:
        if number == 0:
            raise httpx.ConnectError("refused")
        if number == 1:
            return httpx.Response(status, json={"error": {"reason": "r", "message": "m"}})
        return scored(body)

    async def test(client: RewardClient) -> None:
        assert (await client.score([item("abc")])).values == (3.0,)

    seen = run(handler, test)
    assert len({body["idempotency_key"] for body in seen}) == 1
    assert len(seen) == 3
    assert [body["deadline_ms"] for body in seen] == sorted(
        (body["deadline_ms"] for body in seen), reverse=True
    )


def test_a_service_that_stays_away_is_an_error_never_a_missing_score() -> None:
    """Fault 1."""

    def handler(body: dict[str, Any], number: int) -> httpx.Response:
        return httpx.Response(503, text="gone")

    async def test(client: RewardClient) -> None:
        with pytest.raises(RewardUnavailable, match="503 gone"):
            await client.score([item("abc")])

    assert len(run(handler, test)) == 4
    assert len(run(handler, test, Stop())) == 1


def test_the_services_own_pause_is_kept_within_the_deadline() -> None:
    def handler(body: dict[str, Any], number: int) -> httpx.Response:
        body = {"error": {"reason": "queue_full", "message": "m"}}
        return httpx.Response(429, headers={"Retry-After": "30"}, json=body)

    async def test(client: RewardClient) -> None:
        with pytest.raises(RewardUnavailable, match="queue_full") as full:
            await client.score([item("abc")], deadline_s=5)
        assert full.value.retry_after_s == 30

    assert len(run(handler, test)) == 1  # it would come back after the deadline: it stops at once


@pytest.mark.parametrize("status", [401, 403, 413, 422])
def test_what_will_not_pass_is_not_repeated(status: int) -> None:
    def handler(body: dict[str, Any], number: int) -> httpx.Response:
        return httpx.Response(status, json={"error": {"reason": "why", "message": "because"}})

    async def test(client: RewardClient) -> None:
        with pytest.raises(RewardRequestError, match=f"{status} why: because"):
            await client.score([item("abc")])

    assert len(run(handler, test)) == 1


def test_a_refused_item_stops_or_is_replaced() -> None:
    items = [item("x"), item("bad"), item("xyz")]

    async def stop(client: RewardClient) -> None:
        with pytest.raises(ItemRefused, match=r"item 1 was refused \(too_long\)") as refused:
            await client.score(items)
        assert (refused.value.index, refused.value.reason) == (1, "too_long")

    run(lambda body, _: scored(body), stop, chunk_items=2)

    async def draw(refused: ItemRefused, old: Item) -> Item:
        return item("fine")

    async def replace(client: RewardClient) -> None:
        scores = await client.score(items)
        assert scores.values == (1.0, 4.0, 3.0)
        assert scores.items[1]["messages"][-1]["content"] == "fine"
        assert items[1] == item("bad")

    policy = Resample(draw, times=1)
    run(lambda body, _: scored(body), replace, policy)
    assert [r.index for r in policy.replaced] == [1]
    run(lambda body, _: scored(body), stop, policy)  # used up


def test_a_swap_between_requests_never_mixes_versions() -> None:
    """Guard: one reward-model version for each batch."""

    def swapped(body: dict[str, Any], number: int) -> httpx.Response:
        return scored(body, "v1" if number < 2 else "v2")

    async def test(client: RewardClient) -> None:
        scores = await client.score([item("x" * n) for n in range(1, 5)])
        assert (scores.version, scores.values) == ("v2", (1.0, 2.0, 3.0, 4.0))

    seen = run(swapped, test, chunk_items=1, concurrency=1)
    assert len(seen) == 6
    assert len({body["idempotency_key"] for body in seen}) == 6

    def restless(body: dict[str, Any], number: int) -> httpx.Response:
        return scored(body, f"v{number}")

    async def give_up(client: RewardClient) -> None:
        with pytest.raises(RewardUnavailable, match="the model changed"):
            await client.score([item("a"), item("b"), item("c")])

    run(restless, give_up, chunk_items=1)


@pytest.mark.parametrize(
    "content", [b"<html>", b"{}", b'{"scores": [], "version": "v", "model": "m"}']
)
def test_an_answer_that_is_none_is_an_error(content: bytes) -> None:
    async def test(client: RewardClient) -> None:
        with pytest.raises(RewardUnavailable):
            await client.score([item("abc")])

    run(lambda body, _: httpx.Response(200, content=content), test, Stop())


def test_the_waiting_client() -> None:
    transport = httpx.MockTransport(lambda request: scored(json.loads(request.content)))
    with BlockingRewardClient("http://s", "secret", transport=transport) as client:
        assert client.score([item("abc"), item("a")]).values == (3.0, 1.0)
        with pytest.raises(ItemRefused):
            client.score([item("bad")])
