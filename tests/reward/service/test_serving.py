"""The whole service once: real Ray Serve, two replicas, real HTTP, a replica killed under load."""

import asyncio
import itertools
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from actors.group import ActorFailed
from actors.scorer import Scorer
from actors.scoring import SamplesRefused, ScorerSettings
from pretrain_core.chat import as_messages
from reward.model import RewardModel
from reward.service.access import ADMIN_VARIABLE, SCORE_VARIABLE, Tokens
from reward.service.application import RunningService, start
from reward.service.blocking import BlockingRewardClient
from reward.service.client import RewardClient
from reward.service.policies import RewardRequestError
from reward.service.settings import ServiceSettings
from tests.support import free_port

TOKENS = Tokens("score-token-0123456", "admin-token-0123456")
HEADERS = {"Authorization": f"Bearer {TOKENS.score}"}
SETTINGS: dict[str, Any] = {
    "replicas": 2,
    "batch_tokens": 1024,
    "queue_tokens": 20_000,
    "limits": {"body_bytes": 2**22},
}


@pytest.fixture(scope="module")
def service(reward_folder: Path) -> Iterator[RunningService]:
    settings = ServiceSettings.model_validate(SETTINGS | {"port": free_port()})
    with start(settings, reward_folder, TOKENS.access) as running:
        yield running
    # None where the session's Ray was joined, which is not ours to end.
    assert running.folder is None or not Path(running.folder).exists()


@pytest.fixture(scope="module")
def client(service: RunningService) -> Iterator[BlockingRewardClient]:
    with BlockingRewardClient(service.url, TOKENS.score, chunk_items=16) as blocking:
        yield blocking


@pytest.fixture(scope="module")
def admin(service: RunningService) -> Iterator[BlockingRewardClient]:
    with BlockingRewardClient(service.url, TOKENS.admin) as blocking:
        yield blocking


def item(number: int) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": f"Number {number}. " * (1 + number % 5)},
        {"role": "assistant", "content": "A stone and a river. " * (1 + number % 7)},
    ]
    return {"messages": messages, "condition": ("bright", "dark")[number % 2]}


def expected(folder: Path, items: list[dict[str, Any]]) -> torch.Tensor:
    model = RewardModel.load(folder)
    return model.score_conversations(
        [i["messages"] for i in items], [i["condition"] for i in items]
    )


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what the service does by itself; fails after `seconds`."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def metric(service: RunningService, name: str) -> float:
    text = httpx.get(service.url + "/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("cool_rlhf_reward_" + name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_scores_over_http_are_the_models_own(
    service: RunningService, client: BlockingRewardClient, reward_folder: Path
) -> None:
    items = [item(n) for n in range(40)]
    scores = client.score(items)
    assert torch.allclose(torch.tensor(scores.values), expected(reward_folder, items), atol=1e-5)
    assert scores.version == service.version
    status = client.models()
    assert (status.switched, len({r.pid for r in status.replicas})) == (True, 2)
    assert httpx.get(service.url + "/healthz").status_code == 200


def test_bad_requests_are_refused_clearly(service: RunningService) -> None:
    def refused(body: Any, headers: dict[str, str] = HEADERS) -> tuple[int, str]:
        answer = httpx.post(service.url + "/v1/score", json=body, headers=headers, timeout=60)
        return answer.status_code, answer.json()["error"]["reason"]

    good = item(1)
    assert refused({"items": [good]}, {}) == (401, "no_token")
    assert refused({"items": [good]}, {"Authorization": "Bearer x"}) == (401, "wrong_token")
    assert refused({"items": [good, {"messages": [{"role": "user"}]}]}) == (422, "malformed")
    huge = {"messages": [{"role": "user", "content": "x" * 10_000_000}]}
    assert refused({"items": [huge]}) == (413, "body_too_large")
    many = {"messages": [{"role": "user", "content": ""}] * 100_000}
    assert refused({"items": [many]}) == (413, "too_many_messages")
    assert refused({"items": [good] * 1000}) == (413, "too_many_tokens")
    assert refused({"items": [good], "deadline_ms": 1}) == (504, "deadline")
    assert refused({"items": [item(n) for n in range(3)]} | {"top": 1}) == (422, "malformed")
    with (
        pytest.raises(RewardRequestError, match="admin_only"),
        BlockingRewardClient(service.url, TOKENS.score) as client,
    ):
        client.swap("/anywhere")


def test_a_client_that_has_gone_away_is_dropped(service: RunningService) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    before = metric(service, 'failures_total{reason="client_gone"}')
    # The deadline never passes and the queue is stuffed first, so that only leaving can end it.
    items = ",".join(
        '{"messages":[{"role":"user","content":"%s"},{"role":"assistant","content":"a"}]}'
        % ("why " * 90)
        for _ in range(80)
    )
    body = '{"items":[' + items + "]}"

    # Too early, and the service has not seen it yet; too late, and it has been answered.
    waits = itertools.cycle(0.01 * 2**step for step in range(8))

    def left_and_counted() -> bool:
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                f"POST /v1/score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS.score}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            time.sleep(next(waits))
        return metric(service, 'failures_total{reason="client_gone"}') > before

    until(left_and_counted)
    until(lambda: metric(service, "queue_tokens") == 0)


def test_swaps_under_load_never_mix_or_fail(
    service: RunningService,
    admin: BlockingRewardClient,
    reward_folder: Path,
    other_folder: Path,
    broken_folders: dict[str, Path],
) -> None:
    items = [item(n) for n in range(24)]
    by_version = {
        RewardModel.load(folder).version: expected(folder, items)
        for folder in (reward_folder, other_folder)
    }
    versions = set()

    async def load() -> None:
        async with RewardClient(service.url, TOKENS.score) as client:

            async def ask(stop: asyncio.Event) -> None:
                while not stop.is_set():
                    scores = await client.score(items)
                    versions.add(scores.version)
                    wanted = by_version[scores.version]
                    assert torch.allclose(torch.tensor(scores.values), wanted, atol=1e-5)

            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(ask(stop))
                for folder in (other_folder, reward_folder):
                    status = await asyncio.to_thread(admin.swap, folder)
                    assert status.version == RewardModel.load(folder).version
                for fault, folder in broken_folders.items():
                    with pytest.raises(RewardRequestError, match=fault):
                        await asyncio.to_thread(admin.swap, folder)
                    assert admin.models().version == RewardModel.load(reward_folder).version
                await asyncio.to_thread(admin.swap, other_folder)
                stop.set()

    asyncio.run(load())
    assert versions == set(by_version)
    assert admin.models().version == RewardModel.load(other_folder).version
    until(lambda: admin.models().switched)


def test_a_hanging_replica_does_not_hang_the_service(service: RunningService) -> None:
    """Fault 11, once found here: answers to a stopped replica held the ingress' event loop."""
    items = [item(n) for n in range(100)]

    async def load() -> None:
        async with (
            RewardClient(service.url, TOKENS.score, chunk_items=4, concurrency=16) as client,
            httpx.AsyncClient(base_url=service.url, timeout=30) as http,
        ):
            for number in range(10):
                replicas = (await client.models()).replicas
                victim = replicas[number % len(replicas)].pid
                calls = asyncio.create_task(client.score(items, 120))
                await asyncio.sleep(0.1)
                os.kill(victim, signal.SIGSTOP)
                try:
                    for _ in range(3):
                        assert (await http.get("/metrics")).status_code == 200
                        await asyncio.sleep(0.2)
                finally:
                    os.kill(victim, signal.SIGCONT)
                await calls

    asyncio.run(load())


def test_a_killed_replica_loses_nothing_and_scores_nothing_twice(
    service: RunningService, client: BlockingRewardClient, other_folder: Path
) -> None:
    """Fault 11: a dead replica that shows up as a hang."""
    items = [item(n) for n in range(200)]
    wanted = expected(other_folder, items)
    before, retried = metric(service, "items_total"), metric(service, "retried_items_total")
    killed: set[int] = set()

    async def stuck(calls: list[asyncio.Task[Any]]) -> bool:
        """Whether batches hang in the stopped replica; False when all calls came through."""
        scored, same = -1.0, 0
        # On a busy machine the other replica may pause, so one equal reading is no proof.
        while same < 10 and not all(call.done() for call in calls):
            await asyncio.sleep(0.3)
            now = metric(service, "items_total")
            scored, same = now, same + 1 if now == scored else 0
        return not all(call.done() for call in calls)

    async def load() -> int:
        async with RewardClient(service.url, TOKENS.score, chunk_items=4, concurrency=16) as client:
            victim = (await client.models()).replicas[0].pid
            rounds = 0
            while True:
                rounds += 1
                calls = [
                    asyncio.create_task(client.score(items[start : start + 20], 120))
                    for start in range(0, len(items), 20)
                ]
                await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
                # Stopped first, so that the kill surely takes batches with it.
                os.kill(victim, signal.SIGSTOP)
                if await stuck(calls):
                    break
                os.kill(victim, signal.SIGCONT)
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
            values = [v for scores in await asyncio.gather(*calls) for v in scores.values]
            assert torch.allclose(torch.tensor(values), wanted, atol=1e-5)
            return rounds

    rounds = asyncio.run(asyncio.wait_for(load(), 120))
    # What the dead replica had not accepted yet Serve sends on by itself: then once more, until
    # there was something to retry.
    while metric(service, "retried_items_total") == retried:
        until(lambda: len({r.pid for r in client.models().replicas} - killed) == 2)
        rounds += asyncio.run(asyncio.wait_for(load(), 120))
    assert metric(service, "items_total") - before == rounds * len(items)


def test_the_restarted_replica_serves_what_was_swapped_in(
    client: BlockingRewardClient, other_folder: Path
) -> None:
    until(lambda: len((status := client.models()).replicas) == 2 and status.switched)
    status = client.models()
    assert {r.version for r in status.replicas} == {RewardModel.load(other_folder).version}


def test_ppo_scores_through_the_service(
    service: RunningService,
    reward_folder: Path,
    other_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SCORE_VARIABLE, TOKENS.score)
    settings = ScorerSettings(kind="service", url=service.url, cpus=0.5, deadline=60)
    scorer = Scorer.start(settings)
    talks = [as_messages(item(n)["messages"]) for n in range(5)]
    conditions = [item(n)["condition"] for n in range(5)]
    try:
        with pytest.raises(ActorFailed, match="serve that folder"):
            scorer.load(reward_folder).result()
        monkeypatch.setenv(ADMIN_VARIABLE, TOKENS.admin)
        scorer.load(reward_folder).result()
        scored = scorer.score(talks, conditions).result()
        model = RewardModel.load(reward_folder)
        assert scored.rm_version == model.version
        direct = model.score_conversations(talks, conditions)
        assert torch.allclose(torch.tensor(scored.values), direct, atol=1e-5)
        with pytest.raises(SamplesRefused, match="1 of the samples cannot be scored: sample 2: "):
            scorer.score(talks[:3], ["bright", "dark", "brigth"]).result()
        with BlockingRewardClient(service.url, TOKENS.admin) as admin:
            admin.swap(other_folder)
        with pytest.raises(ActorFailed, match="within a run"):
            scorer.score(talks, conditions).result()
    finally:
        scorer.close()
