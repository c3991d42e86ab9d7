"""The HTTP interface in this process: a real model, no Ray, no network."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from reward.model import RewardModel
from reward.service.access import Tokens
from reward.service.fleet import Report
from reward.service.gateway import Gateway
from reward.service.http import build_app
from reward.service.models import reference
from tests.reward.service.conftest import MakeGateway

TOKENS = Tokens("score-token-0123456", "admin-token-0123456")
HEADERS = {"Authorization": f"Bearer {TOKENS.score}"}
ADMIN = {"Authorization": f"Bearer {TOKENS.admin}"}


def talk(reply: str, prompt: str = "Say it.") -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]


def serve(
    gateway: Gateway, test: Callable[[httpx.AsyncClient], Awaitable[None]], host: str = "127.0.0.1"
) -> None:
    async def run() -> None:
        gateway.beat(Report("here", 1, (gateway.fleet.current,)))
        transport = httpx.ASGITransport(build_app(gateway, TOKENS.access), client=(host, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await asyncio.wait_for(test(client), 60)

    asyncio.run(run())


def test_scores_are_the_models_own(make_gateway: MakeGateway, reward_folder: Path) -> None:
    """Fault 3, and scores that depend on the batch."""
    model = RewardModel.load(reward_folder)
    talks = [talk("A stone. " * n, "Why? " * (7 - n)) for n in range(1, 7)]
    conditions = ["bright", "dark", None] * 2
    expected = model.score_conversations(talks, conditions).tolist()

    async def test(client: httpx.AsyncClient) -> None:
        items = [
            {"messages": t, "id": str(n)} | ({"condition": c} if c else {})
            for n, (t, c) in enumerate(zip(talks, conditions, strict=True))
        ]
        together = (await client.post("/v1/score", json={"items": items}, headers=HEADERS)).json()
        assert [s["id"] for s in together["scores"]] == [str(n) for n in range(6)]
        assert [s["score"] for s in together["scores"]] == pytest.approx(expected, abs=1e-5)
        assert (together["version"], together["model"]) == (model.version, "reward")
        alone = await asyncio.gather(
            *(client.post("/v1/score", json={"items": [i]}, headers=HEADERS) for i in items)
        )
        single = [answer.json()["scores"][0]["score"] for answer in alone]
        assert single == pytest.approx(expected, abs=1e-5)

    serve(make_gateway(batch_tokens=64), test)


def test_what_cannot_be_scored_says_why_and_leaves_its_neighbours(
    make_gateway: MakeGateway,
) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        items: list[dict[str, Any]] = [
            {"messages": talk("Good.")},
            {"messages": talk("stone " * 2000), "id": "long"},
            {"messages": talk("Good."), "condition": "brigth"},
            {"messages": [{"role": "user", "content": "No reply."}]},
            {"messages": talk("  ")},
            {"messages": talk("Good.")},
        ]
        answer = await client.post("/v1/score", json={"items": items}, headers=HEADERS)
        assert answer.status_code == 200
        scores = answer.json()["scores"]
        reasons = [s.get("error", {}).get("reason") for s in scores]
        assert reasons[:4] == [None, "too_long", "unknown_condition", "bad_conversation"]
        assert scores[1]["id"] == "long"
        assert "did you mean 'bright'" in scores[2]["error"]["message"]
        assert scores[0]["score"] == pytest.approx(scores[5]["score"], abs=1e-5)
        assert all(("score" in s) != ("error" in s) for s in scores)

    serve(make_gateway(), test)


def test_tokens_are_asked_for(make_gateway: MakeGateway, reward_folder: Path) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        body = {"items": [{"messages": talk("Yes.")}]}
        wrong = {"Authorization": "Bearer nobody"}
        assert (await client.post("/v1/score", json=body)).status_code == 401
        assert (await client.post("/v1/score", json=body, headers=wrong)).status_code == 401
        assert (await client.get("/v1/models")).status_code == 401
        swap = {"folder": str(reward_folder)}
        assert (await client.post("/v1/models", json=swap, headers=HEADERS)).status_code == 403
        assert (await client.post("/v1/models", json=swap, headers=ADMIN)).status_code == 200
        assert (await client.get("/healthz")).json() == {"status": "ok", "replicas": 1}
        assert (await client.post("/get_reward", json={"query": ["x"]})).status_code == 404

    serve(make_gateway(), test)


def test_too_much_is_413_and_too_late_is_504(make_gateway: MakeGateway) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        async def refused(body: dict[str, Any]) -> tuple[int, str]:
            answer = await client.post("/v1/score", json=body, headers=HEADERS)
            return answer.status_code, answer.json()["error"]["reason"]

        good = {"messages": talk("Yes.")}
        assert await refused({"items": [{"messages": talk("x" * 40_000)}]}) == (
            413,
            "body_too_large",
        )
        assert await refused({"items": [good] * 9}) == (413, "too_many_items")
        assert await refused({"items": [{"messages": [good] * 9}]}) == (413, "too_many_messages")
        assert await refused({"items": [good] * 8}) == (413, "too_many_tokens")
        assert await refused({"items": [good], "deadline_ms": 9000}) == (422, "deadline_too_long")
        assert await refused({"items": [{"messages": 1}]}) == (422, "malformed")

        async def endless() -> Any:
            for _ in range(100):
                yield b" " * 1000

        stream = await client.post("/v1/score", content=endless(), headers=HEADERS)
        assert stream.status_code == 413

    settings = {
        "limits": {"body_bytes": 30_000, "items": 8, "messages": 8},
        "batch_tokens": 64,
        "queue_tokens": 100,
        "deadline_ms": 8000,
        "longest_deadline_ms": 8000,
    }
    serve(make_gateway(**settings), test)


def test_a_deadline_that_passes_is_504_and_nothing_is_left_behind(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = make_gateway()

    async def never(*_: object) -> list[float | None]:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(gateway.batcher, "forward", never)

    async def test(client: httpx.AsyncClient) -> None:
        body = {"items": [{"messages": talk("Yes.")}], "deadline_ms": 20}
        answer = await client.post("/v1/score", json=body, headers=HEADERS)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (504, "deadline")
        assert gateway.batcher.load == 0

    serve(gateway, test)


def test_a_full_queue_is_429_with_a_time_to_come_back(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = make_gateway(batch_tokens=64, queue_tokens=100)
    started, release = asyncio.Event(), asyncio.Event()

    async def slow(ref: object, inputs: list[Any]) -> list[float | None]:
        started.set()
        await release.wait()
        return [0.0] * len(inputs)

    monkeypatch.setattr(gateway.batcher, "forward", slow)

    async def test(client: httpx.AsyncClient) -> None:
        body = {"items": [{"messages": talk("stone " * 15)}]}
        first = asyncio.create_task(client.post("/v1/score", json=body, headers=HEADERS))
        await started.wait()
        again = await client.post("/v1/score", json=body, headers=HEADERS)
        assert (again.status_code, again.json()["error"]["reason"]) == (429, "queue_full")
        assert int(again.headers["retry-after"]) >= 1
        release.set()
        assert (await first).status_code == 200

    serve(gateway, test)


def test_the_same_key_is_scored_once(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()

    async def test(client: httpx.AsyncClient) -> None:
        body = {"items": [{"messages": talk("Yes.")}], "idempotency_key": "a-key-of-mine"}
        answers = await asyncio.gather(
            *(
                client.post("/v1/score", json=body | {"deadline_ms": 1000 + n}, headers=HEADERS)
                for n in range(5)
            )
        )
        assert len({answer.text for answer in answers}) == 1
        text = (await client.get("/metrics")).text
        assert "cool_rlhf_reward_items_total 1.0" in text
        assert "cool_rlhf_reward_idempotent_answers_total 4.0" in text
        other = body | {"items": [{"messages": talk("No.")}]}
        refused = await client.post("/v1/score", json=other, headers=HEADERS)
        assert (refused.status_code, refused.json()["error"]["reason"]) == (422, "key_reused")

    serve(gateway, test)


def test_bad_folders_are_refused_before_any_replica_hears_of_them(
    make_gateway: MakeGateway, model_folder: Path, reward_folder: Path
) -> None:
    gateway = make_gateway()

    async def test(client: httpx.AsyncClient) -> None:
        for folder in (model_folder, Path("/nowhere")):
            answer = await client.post("/v1/models", json={"folder": str(folder)}, headers=ADMIN)
            assert (answer.status_code, answer.json()["error"]["reason"]) == (422, "model_refused")
        status = (await client.get("/v1/models", headers=HEADERS)).json()
        assert status["version"] == RewardModel.load(reward_folder).version
        assert status["conditions"] == ["bright", "dark", "default"]
        assert status["switched"] is True
        assert gateway.fleet.wanted() == (gateway.fleet.current,)

    serve(gateway, test)


def test_an_ingress_that_starts_anew_serves_what_its_replicas_hold(
    make_gateway: MakeGateway, other_folder: Path
) -> None:
    gateway = make_gateway()
    swapped = reference(other_folder)
    before = gateway.fleet.current
    # Killed right after its swap: the replicas hold both, and know which one is served.
    gateway.beat(Report("survivor", 1, (before, swapped), (), swapped))
    assert gateway.status().version == swapped.version

    async def test(client: httpx.AsyncClient) -> None:
        answer = await client.post(
            "/v1/score", json={"items": [{"messages": talk("Yes.")}]}, headers=HEADERS
        )
        assert answer.json()["version"] == swapped.version

    serve(gateway, test)


def test_openrlhf_asks_from_this_machine_without_a_token(
    make_gateway: MakeGateway, reward_folder: Path
) -> None:
    query = "<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>"
    expected = RewardModel.load(reward_folder).score_conversations([talk("Yes.")], ["dark"])

    async def local(client: httpx.AsyncClient) -> None:
        answer = await client.post("/get_reward", json={"query": [query] * 2, "labels": [None] * 2})
        assert answer.json()["rewards"] == pytest.approx([float(expected)] * 2, abs=1e-5)
        refused = await client.post("/get_reward", json={"query": [query, "plain text"]})
        assert (refused.status_code, refused.json()["error"]["item"]) == (422, 1)

    async def remote(client: httpx.AsyncClient) -> None:
        answer = await client.post("/get_reward", json={"query": [query]})
        assert (answer.status_code, answer.json()["error"]["reason"]) == (403, "loopback_only")

    settings = {"openrlhf": {"enabled": True, "condition": "dark"}}
    serve(make_gateway(**settings), local)
    serve(make_gateway(**settings), remote, host="10.0.0.8")


def test_openapi_describes_the_bodies(make_gateway: MakeGateway) -> None:
    app = build_app(make_gateway(), TOKENS.access)
    paths = app.openapi()["paths"]
    assert set(paths) == {"/v1/score", "/v1/models", "/healthz", "/metrics"}
    body = paths["/v1/score"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == {"items", "deadline_ms", "idempotency_key"}
