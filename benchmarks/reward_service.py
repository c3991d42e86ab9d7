"""Throughput, latency and behaviour under faults of the reward service, on one model folder.

Every client sends one conversation per request and waits for its score. Lengths follow those of
real preference data (HH: median about 136 tokens, mean about 170). Clients, service and the
offline reference run on the same machine. Offline, the service, and the service with one request
per forward pass are measured in turn, `--repeats` times with all clients; the ratios are medians
over these turns. Fewer clients, swaps and the kill are measured in the first turn.

    python benchmarks/reward_service.py MODEL [--items 256] [--repeats 3] [--threads 2]
"""

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from pretrain_core.draws import rng
from pretrain_core.errors import RunFailed
from pretrain_core.runs import write_json
from pretrain_core.runs.lineage import hardware
from reward.model import RewardModel
from reward.service.access import Tokens
from reward.service.application import RunningService, replica_environment, start
from reward.service.client import RewardClient, Scores
from reward.service.policies import Retry, Stop
from reward.service.settings import ServiceSettings

WORDS = ("the", "river", "of", "stones", "and", "to", "in", "bread", "is", "that", "was", "warm")
CLIENTS = (1, 16, 64)
SWAPS = 20
TOLERANCE = 1e-4
TOKENS = Tokens.of_environment({})


@dataclass(frozen=True)
class Load:
    """What a run of concurrent clients saw."""

    items: int
    seconds: float
    latencies: list[float]

    def row(self, offline: float) -> dict[str, float]:
        """JSON-able summary; `offline` in items per second."""
        p50, p99 = np.percentile(self.latencies, [50, 99])
        rate = self.items / self.seconds
        return {
            "items_per_s": round(rate, 2),
            "share_of_offline": round(rate / offline, 3),
            "p50_s": round(float(p50), 4),
            "p99_s": round(float(p99), 4),
        }


def conversations(count: int, limit: int) -> list[dict[str, Any]]:
    """Conversations of words, lengths log-normal, at most about `limit` tokens each."""
    made = []
    for number in range(count):
        draw = rng(0, "benchmark/reward_service", number)
        words = int(min(draw.lognormal(np.log(110), 0.65), limit / 2.5)) + 8
        text = list(draw.choice(WORDS, size=words))
        cut = int(draw.integers(4, words - 3))
        messages = [
            {"role": "user", "content": " ".join(text[:cut])},
            {"role": "assistant", "content": " ".join(text[cut:])},
        ]
        made.append({"messages": messages, "id": str(number)})
    return made


def offline_rate(model: RewardModel, inputs: list[list[int]]) -> float:
    """Items per second of `RewardModel.score` on all inputs, after a warm-up."""
    model.score(inputs[:8])
    begin = time.perf_counter()
    model.score(inputs)
    return len(inputs) / (time.perf_counter() - begin)


def offline_in_a_process(options: argparse.Namespace) -> float:
    """The same in a fresh process that starts as the replicas do, with all their threads."""
    threads = options.replicas * options.threads
    command = [sys.executable, __file__, str(options.model), "--offline"]
    done = subprocess.run(
        [*command, "--items", str(options.items), "--threads", str(threads)],
        env={**os.environ, **replica_environment(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


async def load(
    url: str, items: Sequence[dict[str, Any]], clients: int
) -> tuple[Load, list[Scores | None]]:
    """All items by `clients` clients at once; (what they saw, scores in order)."""
    found: list[Scores | None] = [None] * len(items)
    latencies: list[float] = []
    waiting = iter(range(len(items)))
    policy = Retry(attempts=10)
    async with RewardClient(url, TOKENS.score, concurrency=clients, policy=policy) as client:

        async def ask() -> None:
            for index in waiting:
                begin = time.perf_counter()
                found[index] = await client.score([items[index]], deadline_s=600)
                latencies.append(time.perf_counter() - begin)

        begin = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(clients)))
        return Load(len(items), time.perf_counter() - begin, latencies), found


def counted(url: str, name: str) -> float:
    """A counter of the service's metrics."""
    lines = httpx.get(url + "/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name + " "))


async def swaps(
    service: RunningService, folders: Sequence[Path], items: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Swap to and fro while 16 clients ask; every answer is checked against its own version."""
    expected = {}
    for folder in folders:
        model = RewardModel.load(folder)
        scores = model.score_conversations([i["messages"] for i in items], [None] * len(items))
        expected[model.version] = scores.tolist()
    answered, failed, wrong, seconds = 0, 0, 0, []
    swapping = asyncio.Event()

    async def ask(client: RewardClient, index: int) -> None:
        nonlocal answered, failed, wrong
        while not swapping.is_set():
            index = (index + 7) % len(items)
            try:
                scores = await client.score([items[index]], deadline_s=600)
            except RunFailed:
                failed += 1
                continue
            answered += 1
            wrong += abs(scores.values[0] - expected[scores.version][index]) > TOLERANCE

    async with (
        # No retries: a single failed request shows.
        RewardClient(service.url, TOKENS.score, concurrency=16, policy=Stop()) as client,
        RewardClient(service.url, TOKENS.admin) as admin,
    ):
        async with asyncio.TaskGroup() as group:
            for number in range(16):
                group.create_task(ask(client, number))
            for number in range(SWAPS):
                begin = time.perf_counter()
                await admin.swap(folders[(number + 1) % 2])
                seconds.append(time.perf_counter() - begin)
            swapping.set()
        while not (await admin.models()).switched:
            await asyncio.sleep(0.1)
    return {
        "swaps": SWAPS,
        "answers": answered,
        "failed": failed,
        "not_of_one_version": wrong,
        "median_s": round(statistics.median(seconds), 3),
    }


async def kill(service: RunningService, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """SIGKILL one replica while 16 clients ask; every item is answered and counted once."""
    before = counted(service.url, "cool_rlhf_reward_items_total")
    async with RewardClient(service.url, TOKENS.score) as client:
        victim = (await client.models()).replicas[0].pid
    running = asyncio.create_task(load(service.url, items, 16))
    quarter = before + len(items) / 4
    while await asyncio.to_thread(counted, service.url, "cool_rlhf_reward_items_total") < quarter:
        await asyncio.sleep(0.05)
    os.kill(victim, signal.SIGKILL)
    seen, found = await running
    scored = counted(service.url, "cool_rlhf_reward_items_total") - before
    return {
        "items": len(items),
        "lost": sum(scores is None for scores in found),
        "scored_twice": int(scored) - len(items),
        "retried": int(counted(service.url, "cool_rlhf_reward_retried_items_total")),
        "longest_s": round(max(seen.latencies), 2),
    }


@contextmanager
def other_version(folder: Path) -> Iterator[Path]:
    """The same model with its head turned round: another version with other scores."""
    with tempfile.TemporaryDirectory() as scratch:
        model = RewardModel.load(folder)
        with torch.no_grad():
            model.network.score.weight.neg_()
        yield model.save(Path(scratch) / "other")


def measure(options: argparse.Namespace, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The ways in turn; what the first turn alone measures beside them."""
    batched = ServiceSettings(
        port=options.port,
        replicas=options.replicas,
        threads=options.threads,
        deadline_ms=600_000,
    )
    single = batched.model_copy(update={"batch_tokens": 1})
    result: dict[str, Any] = {}
    fewer: dict[int, Load] = {}
    many: list[Load] = []
    alone: list[Load] = []
    offline: list[float] = []

    def beside(service: RunningService) -> None:
        for clients in CLIENTS[:-1]:
            fewer[clients], _ = asyncio.run(load(service.url, items, clients))
        with other_version(options.model) as other:
            result["swaps"] = asyncio.run(swaps(service, (options.model, other), items))
            result["kill"] = asyncio.run(kill(service, items))

    for number in range(options.repeats):
        offline.append(offline_in_a_process(options))
        for settings, seen in ((batched, many), (single, alone)):
            with start(settings, options.model, TOKENS.access) as service:
                asyncio.run(load(service.url, items[:32], 16))  # warm
                seen.append(asyncio.run(load(service.url, items, CLIENTS[-1]))[0])
                if number == 0 and seen is many:
                    beside(service)
    gains = [one.seconds / both.seconds for one, both in zip(alone, many, strict=True)]
    clients = {str(count): seen.row(offline[0]) for count, seen in fewer.items()}
    return {
        **result,
        "offline_items_per_s": [round(rate, 2) for rate in offline],
        "clients": clients | {str(CLIENTS[-1]): median_row(many, offline)},
        "one_request_per_forward": median_row(alone, offline),
        "gains_of_batching": [round(gain, 2) for gain in gains],
        "gain_of_batching": round(statistics.median(gains), 2),
    }


def median_row(turns: Sequence[Load], offline: Sequence[float]) -> dict[str, float]:
    """The median of each figure over the turns, each against the offline pass of its own turn."""
    rows = [seen.row(rate) for seen, rate in zip(turns, offline, strict=True)]
    return {key: round(statistics.median(row[key] for row in rows), 4) for key in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--items", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--port", type=int, default=8431)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/reward_service.json"))
    parser.add_argument("--offline", action="store_true", help="only RewardModel.score")
    options = parser.parse_args()

    model = RewardModel.load(options.model)
    items = conversations(options.items, model.card.max_length)
    inputs = [model.input(item["messages"], None) for item in items]
    if options.offline:
        torch.set_num_threads(options.threads)
        sys.stdout.write(f"{offline_rate(model, inputs)}\n")
        return
    result: dict[str, Any] = {
        "machine": hardware(),
        "versions": {name: version(name) for name in ("torch", "ray", "transformers", "fastapi")},
        "model": {"version": model.version, "parameters": model.network.num_parameters()},
        "settings": {"replicas": options.replicas, "threads": options.threads},
        "items": len(items),
        "tokens_per_item": round(statistics.mean(map(len, inputs)), 1),
    }
    write_json(options.out, result | measure(options, items))
    sys.stdout.write(options.out.read_text())


if __name__ == "__main__":
    main()
