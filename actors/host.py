"""Processes that several roles share: they take turns there, on the same device."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from actors.worker import Rank, Worker


class HostWorker(Worker):
    """One rank of every role that it takes in."""

    def __init__(self, place: Rank) -> None:
        super().__init__(place)
        self._roles: dict[str, Worker] = {}

    def take_in(self, role: str, worker: type[Worker], arguments: Sequence[Any]) -> None:
        """Make this rank of a role."""
        self._roles[role] = worker(replace(self.place, role=role), *arguments)

    def call(
        self, role: str, method: str, arguments: Sequence[Any], named: Mapping[str, Any]
    ) -> Any:
        """Call a method of a role's rank."""
        return getattr(self._roles[role], method)(*arguments, **named)
