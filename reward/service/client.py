"""The client: pooled and asynchronous, retries under one key, never a missing score.

A failure policy decides what happens when scores do not come: wait and retry, put another item in
the place of a refused one, or stop. Whatever it decides, `score` returns a number for every item,
all from one model version, or raises.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from pretrain_core.chat import Message
from pretrain_core.errors import InputError, RunFailed
from reward.service.policies import (
    FailurePolicy,
    Item,
    ItemRefused,
    Retry,
    RewardRequestError,
    RewardUnavailable,
)
from reward.service.schemas import ModelStatus, ScoreAnswer

__all__ = ["RewardClient", "Scores", "chunks"]

T = TypeVar("T")
RETRIED = frozenset({429, 500, 502, 503, 504})
GRACE_S = 2.0
"""How long an answer may take beyond the deadline that the service was told."""
VERSION_ROUNDS = 5


@dataclass(frozen=True)
class Scores:
    """Raw scores [n] in the order of the items, and the one model that gave them."""

    values: tuple[float, ...]
    version: str
    model: str
    items: tuple[Item, ...] = field(repr=False)
    """What was scored: the items of the call, those that were replaced excepted."""


class RewardClient:
    """A connection pool to one service; use it as an asynchronous context manager."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        policy: FailurePolicy | None = None,
        chunk_items: int = 64,
        chunk_characters: int = 65_536,
        concurrency: int = 8,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Calls are cut into requests of at most `chunk_items` and about `chunk_characters`.

        Characters stand for tokens (about four to one): the client has no tokenizer.
        """
        self.policy: FailurePolicy = policy or Retry()
        self._chunk_items = chunk_items
        self._chunk_characters = chunk_characters
        self._slots = asyncio.Semaphore(concurrency)
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            limits=httpx.Limits(max_connections=concurrency),
            transport=transport,
        )

    async def __aenter__(self) -> "RewardClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def score(self, items: Sequence[Item], deadline_s: float = 60.0) -> Scores:
        """Scores of all items, from one model version.

        Raises RewardUnavailable when they do not come within `deadline_s` or the policy stops
        earlier, ItemRefused for an item without a score that the policy does not replace,
        RewardRequestError when the service refuses the request.
        """
        deadline = asyncio.get_running_loop().time() + deadline_s
        plain = [_plain(item) for item in items]
        parts = chunks(plain, self._chunk_items, self._chunk_characters)
        if not parts:
            status = await self.models()
            return Scores((), status.version, status.model, ())
        answers = await self._all([self._part(plain, part, deadline) for part in parts])
        for _ in range(VERSION_ROUNDS):
            # A swap fell between the requests: what the older model scored is scored again.
            newest = max(answers, key=lambda answer: answer[0])[1].version
            old = [i for i, (_, answer) in enumerate(answers) if answer.version != newest]
            if not old:
                break
            again = await self._all([self._part(plain, parts[i], deadline) for i in old])
            for i, fresh in zip(old, again, strict=True):
                answers[i] = fresh
        else:
            raise RewardUnavailable(
                f"the model changed during each of {VERSION_ROUNDS} tries to score one batch"
            )
        values = [0.0] * len(plain)
        for part, (_, answer) in zip(parts, answers, strict=True):
            for index, scored in zip(part, answer.scores, strict=True):
                assert scored.score is not None  # _part leaves no refusal
                values[index] = scored.score
        first = answers[0][1]
        return Scores(tuple(values), first.version, first.model, tuple(plain))

    async def models(self, deadline_s: float = 60.0) -> ModelStatus:
        """What the service serves, and what each replica holds."""
        deadline = asyncio.get_running_loop().time() + deadline_s
        return await self._retried(
            deadline, lambda: self._send("GET", "/v1/models", None, deadline, _status)
        )

    async def swap(self, folder: Path | str, deadline_s: float = 600.0) -> ModelStatus:
        """Have the service serve another folder of its machine (this client's token: admin).

        Raises RewardRequestError with the reason when the folder is refused.
        """
        deadline = asyncio.get_running_loop().time() + deadline_s
        body = {"folder": str(folder)}
        return await self._send("POST", "/v1/models", body, deadline, _status)

    async def _all(self, calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """All results; the first failure cancels the other calls."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(call) for call in calls]
        except* (RunFailed, InputError) as failures:
            raise _first(failures) from None
        return [task.result() for task in tasks]

    async def _part(
        self, items: list[dict[str, Any]], part: Sequence[int], deadline: float
    ) -> tuple[float, ScoreAnswer]:
        """(when it was answered, answer) of some items; refused ones are replaced in `items`."""
        loop = asyncio.get_running_loop()
        while True:
            body = {"items": [items[i] for i in part], "idempotency_key": uuid.uuid4().hex}
            answer = await self._retried(
                deadline, partial(self._send, "POST", "/v1/score", body, deadline, _scores)
            )
            when = loop.time()
            if len(answer.scores) != len(part):
                raise RewardUnavailable(f"{len(answer.scores)} scores for {len(part)} items")
            refused = [
                ItemRefused(index, scored.error.reason, scored.error.message)
                for index, scored in zip(part, answer.scores, strict=True)
                if scored.error is not None
            ]
            if not refused:
                return when, answer
            for refusal in refused:
                other = await self.policy.replace(refusal, items[refusal.index])
                if other is None:
                    raise refusal
                items[refusal.index] = _plain(other)

    async def _retried(self, deadline: float, send: Callable[[], Awaitable[T]]) -> T:
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self._slots:
                    return await send()
            except RewardUnavailable as failure:
                pause = self.policy.wait_s(attempt, failure)
                left = deadline - asyncio.get_running_loop().time()
                if pause is None or pause >= left:
                    raise
                await asyncio.sleep(pause)

    async def _send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        deadline: float,
        read: Callable[[bytes], T],
    ) -> T:
        """One request; RewardUnavailable for what may pass, RewardRequestError for what stays."""
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            raise RewardUnavailable(f"{path}: the deadline passed")
        if path == "/v1/score" and body is not None:
            body = body | {"deadline_ms": max(1, int(left * 1000))}
        try:
            response = await self._http.request(method, path, json=body, timeout=left + GRACE_S)
        except httpx.TransportError as error:
            raise RewardUnavailable(f"{path}: {type(error).__name__}: {error}") from error
        if response.status_code in RETRIED:
            raise RewardUnavailable(
                f"{path}: {_reason(response)}", _number(response.headers.get("Retry-After"))
            )
        if response.is_error:
            raise RewardRequestError(f"{path}: {_reason(response)}")
        try:
            return read(response.content)
        except ValidationError as error:
            raise RewardUnavailable(f"{path}: the answer is none of this service's") from error


def chunks(items: Sequence[Mapping[str, Any]], most: int, characters: int) -> list[list[int]]:
    """Indices of the items of each request, in order; one item at least in each."""
    parts: list[list[int]] = []
    room = 0
    for index, item in enumerate(items):
        weight = sum(len(str(message.get("content", ""))) for message in item["messages"])
        if not parts or len(parts[-1]) >= most or weight > room:
            parts.append([])
            room = characters
        parts[-1].append(index)
        room -= weight
    return parts


def _plain(item: Item) -> dict[str, Any]:
    messages = [m.as_dict() if isinstance(m, Message) else dict(m) for m in item["messages"]]
    return {**item, "messages": messages}


def _first(failures: BaseExceptionGroup[Exception]) -> Exception:
    """The failure to report: a refusal says more than the deadline that passed meanwhile."""
    flat: list[Exception] = []
    for failure in failures.exceptions:
        flat += [_first(failure)] if isinstance(failure, BaseExceptionGroup) else [failure]
    return min(flat, key=lambda failure: isinstance(failure, RewardUnavailable))


def _scores(content: bytes) -> ScoreAnswer:
    return ScoreAnswer.model_validate_json(content)


def _status(content: bytes) -> ModelStatus:
    return ModelStatus.model_validate_json(content)


def _reason(response: httpx.Response) -> str:
    """`429 queue_full: …` of our own answers, the status alone of others."""
    try:
        error = response.json()["error"]
        return f"{response.status_code} {error['reason']}: {error['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.text[:200]}"


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdigit() else None
