"""Which models the replicas must hold, and the switch from one to the next.

Replicas report what they hold several times a second and are told what they should hold. Requests
pin the current model when they arrive; a switch changes what later requests pin, at one point in
time for all replicas. The old model is released when no request pins it any more.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from reward.service.errors import ServiceError
from reward.service.models import ModelRef

BEAT_S = 0.25
GONE_S = 5.0
"""A replica that was silent for so long is counted no more."""


@dataclass(frozen=True)
class Report:
    """What a replica says of itself.

    `failed`: models it could not load, and why; `current`: the one it was last told is served.
    """

    replica: str
    pid: int
    holds: tuple[ModelRef, ...]
    failed: tuple[tuple[ModelRef, str], ...] = ()
    current: ModelRef | None = None


class Fleet:
    """State of all replicas; lives in the ingress' event loop."""

    def __init__(self, current: ModelRef, clock: Callable[[], float] = time.monotonic) -> None:
        self.current = current
        self._clock = clock
        self._candidate: ModelRef | None = None
        self._pins: Counter[ModelRef] = Counter()
        self._seen: dict[str, tuple[float, Report]] = {}
        self._news = asyncio.Event()
        self.heard = asyncio.Event()
        """Set with the first report: only then is it sure which model is the current one."""

    def adopted(self, report: Report) -> ModelRef | None:
        """What a first report says that an ingress before this one had switched to, if so.

        Replicas outlive an ingress that dies; those of a fresh start were told nothing yet.
        """
        if self.heard.is_set() or report.current in (None, self.current):
            return None
        return report.current

    def beat(self, report: Report) -> tuple[ModelRef, ...]:
        """Note a replica's report; returns the models it should hold, the current one first."""
        self._seen[report.replica] = (self._clock(), report)
        self._news.set()
        self.heard.set()
        return self.wanted()

    def wanted(self) -> tuple[ModelRef, ...]:
        """Current model, the one about to replace it, and those that requests still pin."""
        refs = [self.current, *([self._candidate] if self._candidate else []), *self._pins]
        return tuple(dict.fromkeys(refs))

    def reports(self) -> list[Report]:
        """Latest reports of the replicas that are alive."""
        limit = self._clock() - GONE_S
        self._seen = {name: seen for name, seen in self._seen.items() if seen[0] >= limit}
        return [report for _, report in self._seen.values()]

    @property
    def size(self) -> int:
        """Replicas alive that hold the current model."""
        return sum(self.current in report.holds for report in self.reports())

    @property
    def switched(self) -> bool:
        """Whether every replica holds the current model and no other."""
        reports = self.reports()
        return bool(reports) and all(report.holds == (self.current,) for report in reports)

    @contextmanager
    def pin(self) -> Iterator[ModelRef]:
        """The model that one request is answered by, kept loaded meanwhile."""
        ref = self.current
        self._pins[ref] += 1
        try:
            yield ref
        finally:
            self._pins[ref] -= 1
            if not self._pins[ref]:
                del self._pins[ref]

    async def swap(self, candidate: ModelRef, timeout_s: float) -> None:
        """Have every replica load and check `candidate`, then make it the current model.

        Returns when all replicas know of it: an ingress that dies then finds it out from them.
        Raises ServiceError 409 while another swap runs, 422 with the first replica's reason when
        one refuses it, 504 after `timeout_s`; the old model is then still served.
        """
        if self._candidate is not None:
            raise ServiceError(409, "swap_running", f"a swap to {self._candidate.version} runs")
        self._candidate = candidate
        # What a replica said of an earlier try of the same folder counts no more.
        for name, (when, report) in self._seen.items():
            self._seen[name] = (when, replace(report, failed=()))
        try:
            async with asyncio.timeout(timeout_s):
                while not self._ready(candidate):
                    await self._next_report()
            self.current = candidate
            while any(report.current != candidate for report in self.reports()):
                await self._next_report()
        except TimeoutError as error:
            raise ServiceError(
                504,
                "swap_timeout",
                f"not all replicas had loaded {candidate.version} within {timeout_s} s",
            ) from error
        finally:
            self._candidate = None

    async def _next_report(self) -> None:
        """Wait for a report, or until a silent replica no longer counts."""
        self._news.clear()
        try:
            await asyncio.wait_for(self._news.wait(), GONE_S)
        except TimeoutError:
            return

    def _ready(self, candidate: ModelRef) -> bool:
        reports = self.reports()
        for report in reports:
            for ref, reason in report.failed:
                if ref == candidate:
                    raise ServiceError(422, "model_refused", reason)
        return bool(reports) and all(candidate in report.holds for report in reports)
