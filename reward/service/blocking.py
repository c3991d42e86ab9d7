"""The client for scripts and actors: calls wait for their scores."""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from reward.service.client import RewardClient, Scores
from reward.service.policies import Item
from reward.service.schemas import ModelStatus

T = TypeVar("T")


class BlockingRewardClient:
    """`RewardClient` behind waiting calls; its connections live in one thread of their own."""

    def __init__(self, url: str, token: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reward", daemon=True)
        self._thread.start()
        self._client = RewardClient(url, token, **options)

    def __enter__(self) -> "BlockingRewardClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def score(self, items: Sequence[Item], deadline_s: float = 60.0) -> Scores:
        """As RewardClient.score."""
        return self._wait(self._client.score(items, deadline_s))

    def models(self, deadline_s: float = 60.0) -> ModelStatus:
        """As RewardClient.models."""
        return self._wait(self._client.models(deadline_s))

    def swap(self, folder: Path | str, deadline_s: float = 600.0) -> ModelStatus:
        """As RewardClient.swap."""
        return self._wait(self._client.swap(folder, deadline_s))

    def close(self) -> None:
        """Close all connections and end the thread."""
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()
