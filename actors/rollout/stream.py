"""Requests taken in at any time, on all replicas; their replies go on over a push of weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Condition
from typing import TYPE_CHECKING, Any

from actors.group import Pending
from actors.rollout.requests import (
    Finished,
    Request,
    RolloutError,
    SamplingSettings,
    check_requests,
    room_for,
)
from pretrain_core.draws import seed_of

if TYPE_CHECKING:
    from actors.rollout.rollout import Rollout

SLICE_S = 0.3
"""How long an engine goes on before it can be asked to stop, unless a reply ends earlier."""


@dataclass
class _Reply:
    """A reply that is not whole yet."""

    request: Request
    load: int
    """Tokens that it may come to, with its prompt."""
    parts: list[Finished] = field(default_factory=list)
    """What was sampled of it under older weights."""

    @property
    def rest(self) -> Request:
        """What is still to be sampled; its draws are not those of the beginning once more."""
        said = [token for part in self.parts for token in part.tokens]
        if not said:
            return self.request
        seed = seed_of(self.request.seed, "rollout_goes_on", len(said))
        return replace(self.request, said=said, seed=seed)

    def whole(self, last: Finished) -> Finished:
        """All parts in one."""
        parts = [*self.parts, last]
        raw = [part.raw_logprobs for part in parts]
        return replace(
            last,
            tokens=[x for part in parts for x in part.tokens],
            behaviour_logprobs=[x for part in parts for x in part.behaviour_logprobs],
            raw_logprobs=None if None in raw else [x for part in raw if part for x in part],
            policy_version=[x for part in parts for x in part.policy_version],
        )


class RolloutStream:
    """Hand requests in, take replies out; a thread keeps every replica busy in between.

    A request goes to the replica with the fewest tokens under way. Within `paused` nothing runs and
    weights may change: replies that were not whole go on under the new ones, on any replica, and
    each token keeps the version that it was sampled by. Which replies are cut, and where, depends
    on the clock: only the log makes a run repeatable.
    """

    def __init__(
        self, rollout: Rollout, sampling: SamplingSettings, stop_token_ids: Sequence[int]
    ) -> None:
        """Raises `RolloutError` for an engine that cannot take requests at any time."""
        if not rollout.facts.continuous:
            raise RolloutError(
                f"engine {rollout.engine} takes no requests while others are under way, so it"
                " cannot sample ahead: layout.name async needs vLLM (crew.rollout.engine=vllm says"
                " why it does not start)"
            )
        self._rollout = rollout
        self._sampling = sampling
        self._stop_token_ids = list(stop_token_ids)
        self._replies: dict[str, _Reply] = {}
        self._waiting: deque[str] = deque()
        self._given: list[set[str]] = [set() for _ in range(rollout.replicas)]
        """Per replica: what is its to sample; of that, `_new` is still to be told to it."""
        self._new: list[list[str]] = [[] for _ in range(rollout.replicas)]
        self._calls: dict[Any, int] = {}
        self._finished: deque[Finished] = deque()
        self._stopping = False
        self._closed = False
        self._changed = Condition()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rollout-stream")
        self._running: Future[None] = self._thread.submit(self._run)
        self._running.add_done_callback(lambda _: self._wake())

    def submit(self, requests: Sequence[Request]) -> None:
        """Hand requests in; raises `RequestError` for one that cannot be served."""
        check_requests(requests, self._stop_token_ids, self._rollout.facts)
        context = self._rollout.facts.max_model_len
        with self._changed:
            for request in requests:
                load = len(request.context) + room_for(request, self._sampling, context)
                self._replies[request.id] = _Reply(request, load)
                self._waiting.append(request.id)
            self._changed.notify_all()

    def take(self) -> Finished:
        """The next whole reply, in the order of their ends; raises ActorFailed.

        Raises `RolloutError` where nothing is under way.
        """
        with self._changed:
            if not self._finished and not self._replies:
                raise RolloutError("no request is under way: nothing will ever come")
            self._changed.wait_for(lambda: self._finished or self._running.done())
            if self._finished:
                return self._finished.popleft()
        self._running.result()
        raise RolloutError("the rollout stream is closed")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is under way inside; raises ActorFailed."""
        with self._changed:
            self._stopping = True
            self._changed.wait_for(lambda: not self._calls or self._running.done())
        if self._running.done():
            self._running.result()
        cut: list[list[Finished]] = self._rollout.group.call("interrupt").result()
        with self._changed:
            self._take_back(cut)
        yield
        with self._changed:
            self._stopping = False
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread; what is under way is lost."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.shutdown(wait=True)

    def _run(self) -> None:
        """The thread: tell idle replicas what is new, wait for one to answer, and again."""
        import ray

        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._calls or self._has_work())
                if self._closed:
                    return
                if not self._stopping:
                    self._call()
                calls = list(self._calls)
            # Waited for without the lock: requests may be handed in meanwhile.
            ready, _ = ray.wait(calls, num_returns=1)
            answer: Pending[list[list[Finished]]] = Pending(
                self._rollout.group, {self._calls[ready[0]]: ready[0]}, list
            )
            [ended] = answer.result()
            with self._changed:
                self._end(self._calls.pop(ready[0]), ended)
                self._changed.notify_all()

    def _has_work(self) -> bool:
        return not self._stopping and bool(self._replies)

    def _call(self) -> None:
        """Deal what waits, and set every idle replica that has something to do going."""
        self._deal()
        busy = set(self._calls.values())
        for rank, names in enumerate(self._given):
            if rank in busy or not names:
                continue
            requests = [self._replies[name].rest for name in self._new[rank]]
            self._new[rank].clear()
            actor = self._rollout.group.actors[rank]
            call = actor.advance.remote(requests, self._sampling, self._stop_token_ids, SLICE_S)
            self._calls[call] = rank

    def _deal(self) -> None:
        """To the replica with the fewest tokens under way, while there is room in one."""
        room = self._rollout.settings.max_num_seqs
        loads = [sum(self._replies[name].load for name in names) for names in self._given]
        while self._waiting:
            free = [rank for rank, names in enumerate(self._given) if len(names) < room]
            if not free:
                return
            rank = min(free, key=loads.__getitem__)
            name = self._waiting.popleft()
            self._given[rank].add(name)
            self._new[rank].append(name)
            loads[rank] += self._replies[name].load

    def _end(self, rank: int, ended: Sequence[Finished]) -> None:
        for last in ended:
            self._given[rank].discard(last.id)
            self._finished.append(self._replies.pop(last.id).whole(last))

    def _take_back(self, cut: Sequence[Sequence[Finished]]) -> None:
        """All that was given away waits again, with what was sampled of it; the oldest first."""
        for parts in cut:
            for part in parts:
                self._replies[part.id].parts.append(part)
        for names, new in zip(self._given, self._new, strict=True):
            names.clear()
            new.clear()
        self._waiting = deque(self._replies)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
