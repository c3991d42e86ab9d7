"""Groups of workers as seen from the driver: calls, results, and failures that have a name."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor

from actors.batch import Sequences, partition, scatter_back
from actors.placement import Placement, RoleResources
from actors.worker import Rank, Worker
from pretrain_core.errors import RunFailed

T = TypeVar("T")
U = TypeVar("U")

GRACE_S = 3.0
"""After the first failed rank, how long the others may take to fail or finish."""

RENDEZVOUS_TIMEOUT_S = 180.0
"""Longest wait of one rank for the start of another."""


class ActorFailed(RunFailed):
    """A worker raised or died; `cause` is the first real error, `rank` where it happened."""

    def __init__(self, role: str, rank: int, cause: BaseException) -> None:
        super().__init__(f"{role} rank {rank} failed: {type(cause).__name__}: {cause}")
        self.role = role
        self.rank = rank
        self.cause = cause

    def __reduce__(self) -> tuple[type["ActorFailed"], tuple[str, int, BaseException]]:
        return type(self), (self.role, self.rank, self.cause)


class Pending(Generic[T]):
    """Results that are on their way, one for each rank, made into one value."""

    def __init__(
        self, group: "Group", references: Mapping[int, Any], gather: Callable[[list[Any]], T]
    ) -> None:
        self._group = group
        self._references = dict(references)
        self._gather = gather
        self._value: list[T] = []

    def then(self, change: Callable[[T], U]) -> "Pending[U]":
        """The same results with one more step on the driver."""
        gather = self._gather
        return Pending(self._group, self._references, lambda parts: change(gather(parts)))

    def result(self, timeout: float | None = None) -> T:
        """Wait for all ranks.

        Raises ActorFailed within seconds of the first failure, also while other ranks are stuck
        waiting for the failed one; TimeoutError after `timeout` seconds.
        """
        if not self._value:
            self._group.ready()
            parts = _wait(self._group, self._references, timeout)
            self._value.append(self._gather(parts))
        return self._value[0]


def done(_: object) -> None:
    """For calls whose answers say nothing."""


class Group:
    """The ranks of one role, each a Ray actor."""

    def __init__(
        self,
        role: str,
        worker: type[Worker],
        resources: RoleResources,
        placement: "Placement | Group | None" = None,
        env: Mapping[str, str] | None = None,
        arguments: Sequence[Any] = (),
    ) -> None:
        """Start `worker(place, *arguments)` on every rank; does not wait until they run.

        `placement` is room for processes of its own, or a group of `HostWorker`s, whose processes
        it shares; without it the group reserves its own room. `env` is added to each own process's
        environment. Raises PlacementError.
        """
        import ray

        self.role = role
        self.broken: ActorFailed | None = None
        self._own: Placement | None = None
        self.actors: list[Any] = []
        self._host = placement if isinstance(placement, Group) else None
        if isinstance(placement, Group):
            self.actors = placement.actors
            self._joining = {
                rank: actor.take_in.remote(role, worker, tuple(arguments))
                for rank, actor in enumerate(self.actors)
            }
            return
        if placement is None:
            placement = self._own = Placement({role: resources})
        remote = ray.remote(worker)
        suffix = uuid.uuid4().hex[:6]
        for rank in range(resources.world_size):
            place = Rank(role, rank, resources.world_size, resources.threads, resources.gpus)
            options = placement.options(role, rank) | {
                "name": f"{role}-{rank}-{suffix}",
                "runtime_env": {"env_vars": {**place.environment, **(env or {})}},
                "max_restarts": 0,
            }
            self.actors.append(remote.options(**options).remote(place, *arguments))
        # The rendezvous travels as a reference: nobody waits here, groups start side by side.
        meeting = self.actors[0].open_store.remote()
        self._joining = {
            rank: actor.join.remote(meeting, RENDEZVOUS_TIMEOUT_S)
            for rank, actor in enumerate(self.actors)
        }

    def ready(self) -> None:
        """Wait until every rank runs and has met the others; raises ActorFailed."""
        if self._host is not None:
            self._host.ready()
        if self._joining:
            _wait(self, self._joining, None)
            self._joining = {}

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return len(self.actors)

    def call(self, method: str, *arguments: Any, **named: Any) -> Pending[list[Any]]:
        """Call `method` with the same arguments on every rank."""
        return self.scatter(method, [arguments] * self.world_size, **named)

    def scatter(
        self, method: str, shards: Sequence[Sequence[Any]], **named: Any
    ) -> Pending[list[Any]]:
        """Call `method` on every rank, each with its own positional arguments."""
        if self.broken is not None:
            raise self.broken
        if len(shards) != self.world_size:
            raise ValueError(f"{len(shards)} shards for {self.world_size} ranks of {self.role}")
        references = {
            rank: self._ask(rank, method, shard, named) for rank, shard in enumerate(shards)
        }
        return Pending(self, references, list)

    def deal(
        self, method: str, batch: Sequences, *arguments: Any
    ) -> tuple[Pending[list[Any]], Callable[[list[Tensor]], Tensor]]:
        """Deal the sequences to the ranks by tokens; also how to join per-token results again."""
        shares = partition(batch.lengths, self.world_size)
        shards = [(batch.select(share), *arguments) for share in shares]
        return self.scatter(method, shards), lambda parts: scatter_back(parts, shares, batch)

    def first(self, method: str, batch: Sequences, *arguments: Any, **named: Any) -> Pending[Any]:
        """Give all sequences to rank 0, and none to the others, which go along where they must."""
        shares = [batch, *[batch.select([])] * (self.world_size - 1)]
        pending = self.scatter(method, [(share, *arguments) for share in shares], **named)
        return pending.then(lambda parts: parts[0])

    def only(self, rank: int, method: str, *arguments: Any) -> Pending[Any]:
        """Call `method` on one rank."""
        if self.broken is not None:
            raise self.broken
        reference = self._ask(rank, method, arguments, {})
        return Pending(self, {rank: reference}, lambda parts: parts[0])

    def _ask(
        self, rank: int, method: str, arguments: Sequence[Any], named: Mapping[str, Any]
    ) -> Any:
        if self._host is not None:
            return self.actors[rank].call.remote(self.role, method, arguments, named)
        return getattr(self.actors[rank], method).remote(*arguments, **named)

    def close(self) -> None:
        """End all ranks and give their room back; those in a host's processes end with the host."""
        import ray

        if self._host is not None:
            return
        for actor in self.actors:
            ray.kill(actor)
        if self._own is not None:
            self._own.close()


def _wait(group: Group, references: Mapping[int, Any], timeout: float | None) -> list[Any]:
    import ray
    from ray.exceptions import RayError

    rank_of = {reference: rank for rank, reference in references.items()}
    results: dict[int, Any] = {}
    failures: list[tuple[int, BaseException]] = []
    waiting = list(rank_of)
    deadline = None if timeout is None else time.monotonic() + timeout
    while waiting:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        done, waiting = ray.wait(waiting, num_returns=1, timeout=left)
        if not done:
            break
        rank = rank_of[done[0]]
        try:
            results[rank] = ray.get(done[0])
        except RayError as error:
            if not failures:
                deadline = time.monotonic() + GRACE_S
            failures.append((rank, error))
    if failures:
        rank, first = min(failures, key=lambda failure: _secondhand(failure[1]))
        failed = ActorFailed(group.role, rank, _cause(first))
        if waiting or _secondhand(first) != _RAISED:
            group.broken = failed
        raise failed from first
    if waiting:
        ranks = sorted(rank_of[reference] for reference in waiting)
        raise TimeoutError(f"{group.role} ranks {ranks} gave no answer within {timeout} s")
    return [results[rank] for rank in references]


_DIED, _RAISED, _LOST_PEER = range(3)
_PEER_ERRORS = ("closed by peer", "reset by peer", "gloo", "broken pipe", "nccl", "timed out")


def _cause(error: BaseException) -> BaseException:
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def _secondhand(error: BaseException) -> int:
    """How far an error is from the root: a death, an error of its own, a peer that went away."""
    from ray.exceptions import RayTaskError

    if not isinstance(error, RayTaskError):
        return _DIED
    text = str(_cause(error)).lower()
    return _LOST_PEER if any(part in text for part in _PEER_ERRORS) else _RAISED
