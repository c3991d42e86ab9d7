"""What a client does when scores do not come: typed failures and the policies that decide."""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pretrain_core.errors import InputError, RunFailed

Item = Mapping[str, Any]
"""`messages` (mappings or Message) with optional `condition` and `id`."""


class RewardUnavailable(RunFailed):
    """The service gave no scores in time; `retry_after_s` is its own estimate, if it made one."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RewardRequestError(InputError):
    """The service refuses the request itself: token, sizes, shape. Repeating it changes nothing."""


class ItemRefused(RunFailed):
    """One item has no score; `index` is its place in the call, `reason` one word."""

    def __init__(self, index: int, reason: str, message: str) -> None:
        super().__init__(f"item {index} was refused ({reason}): {message}")
        self.index = index
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type["ItemRefused"], tuple[int, str, str]]:
        return type(self), (self.index, self.reason, self.message)


class FailurePolicy(Protocol):
    """What a caller wants done when scores do not come."""

    def wait_s(self, attempt: int, failure: RewardUnavailable) -> float | None:
        """Seconds to wait after the `attempt`-th failure of a request (from 1); None: stop."""

    async def replace(self, refused: ItemRefused, item: Item) -> Item | None:
        """Another item for the place of a refused one; None: stop."""


@dataclass(frozen=True)
class Retry:
    """Retries with jittered, doubling pauses; a refused item stops the call."""

    attempts: int = 6
    first_s: float = 0.2
    longest_s: float = 10.0

    def wait_s(self, attempt: int, failure: RewardUnavailable) -> float | None:
        """Between half and all of the pause, at least what the service asked for."""
        if attempt >= self.attempts:
            return None
        pause = min(self.longest_s, self.first_s * 2 ** (attempt - 1))
        # Not from the run's seed: clients that share one must not come back together.
        jittered = secrets.SystemRandom().uniform(pause / 2, pause)
        return max(jittered, failure.retry_after_s or 0.0)

    async def replace(self, refused: ItemRefused, item: Item) -> Item | None:
        """None: a refused item stops the call."""
        return None


@dataclass(frozen=True)
class Stop:
    """The first failure of any kind is raised."""

    def wait_s(self, attempt: int, failure: RewardUnavailable) -> float | None:
        """None."""
        return None

    async def replace(self, refused: ItemRefused, item: Item) -> Item | None:
        """None."""
        return None


@dataclass
class Resample:
    """Retries like `retry`; a refused item is replaced by what `draw` returns, `times` at most."""

    draw: Callable[[ItemRefused, Item], Awaitable[Item]]
    times: int = 8
    retry: Retry = field(default_factory=Retry)
    replaced: list[ItemRefused] = field(default_factory=list)
    """What was replaced so far, over all calls."""

    def wait_s(self, attempt: int, failure: RewardUnavailable) -> float | None:
        """As `retry`."""
        return self.retry.wait_s(attempt, failure)

    async def replace(self, refused: ItemRefused, item: Item) -> Item | None:
        """Another item, until `times` is used up."""
        if len(self.replaced) >= self.times:
            return None
        self.replaced.append(refused)
        return await self.draw(refused, item)
