"""How the bytes of a bucket get from the policy to the engines: by gloo, or through files."""

import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch._C._distributed_c10d import BroadcastOptions, PrefixStore, ProcessGroupGloo, Store

Transfer = Literal["gloo", "shared_memory", "disk"]
SHARED_MEMORY = Path("/dev/shm")
FILE_PREFIX = "cool-rlhf-weights-"
LONGEST_PAUSE_S = 0.02
ABORTED = "aborted"
"""Key under which a push that was given up has its reason."""


class Carrier(Protocol):
    """One end; every bucket has a key of its own. Raises RuntimeError where the other is gone."""

    def send(self, payload: Tensor, key: str) -> None:
        """To every receiver; returns when all have it."""
        ...

    def receive(self, size: int, key: str) -> Tensor:
        """`size` bytes, in memory of their own."""
        ...

    def leave(self) -> None:
        """Stop receiving before the end, so that nobody waits for this end."""
        ...


class GlooCarrier:
    """One broadcast per bucket, between any machines."""

    def __init__(
        self, store: Store, rank: int, world_size: int, towards: str, timeout: timedelta
    ) -> None:
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [ProcessGroupGloo.create_device(hostname=_own_address(towards))]
        options._timeout = timeout
        self._group = ProcessGroupGloo(store, rank, world_size, options)

    def send(self, payload: Tensor, key: str) -> None:
        """Broadcast."""
        self._broadcast(payload)

    def receive(self, size: int, key: str) -> Tensor:
        """Take part in the broadcast."""
        payload = torch.empty(size, dtype=torch.uint8)
        self._broadcast(payload)
        return payload

    def leave(self) -> None:
        """Nothing to say: the connection closes with this end."""

    def _broadcast(self, payload: Tensor) -> None:
        options = BroadcastOptions()
        options.rootRank = 0
        self._group.broadcast([payload], options).wait()  # type: ignore[attr-defined]


class FileCarrier:
    """One file per bucket in a folder that both sides see, gone once everybody has read it.

    In memory (/dev/shm) between processes of one machine, on a shared disk between machines.
    """

    def __init__(
        self, store: Store, group: str, receivers: int, folder: Path, timeout_s: float
    ) -> None:
        self._store = store
        self._group = group
        self._receivers = receivers
        self._folder = folder
        self._timeout_s = timeout_s

    def send(self, payload: Tensor, key: str) -> None:
        """Write, say so, wait until everybody has read, remove."""
        file = self._file(key)
        try:
            payload.numpy().tofile(file)
            self._store.set(f"{key} written", "")
            self._wait(
                lambda: self._store.add(f"{key} taken", 0) >= self._receivers,
                f"{file} was not read by every engine",
            )
        except OSError as error:
            raise RuntimeError(f"{file}: {error}") from error
        finally:
            with suppress(FileNotFoundError):
                file.unlink()

    def receive(self, size: int, key: str) -> Tensor:
        """Read what was written."""
        file = self._file(key)
        self._wait(lambda: self._store.check([f"{key} written"]), f"{file} was not written")
        try:
            payload = torch.from_numpy(np.fromfile(file, dtype=np.uint8))
        except OSError as error:
            raise RuntimeError(f"{file}: {error}; do policy and engine see one folder?") from error
        if len(payload) != size:
            raise RuntimeError(f"{file} has {len(payload)} bytes instead of {size}")
        self._store.add(f"{key} taken", 1)
        return payload

    def leave(self) -> None:
        """The sender would wait for this reader."""
        self._store.set(ABORTED, "an engine did not take them")

    def _file(self, key: str) -> Path:
        return self._folder / f"{FILE_PREFIX}{self._group}-{key.replace(' ', '-')}"

    def _wait(self, ready: Callable[[], bool], problem: str) -> None:
        deadline, pause = monotonic() + self._timeout_s, 0.0002
        while not ready():
            if self._store.check([ABORTED]):
                raise RuntimeError(f"given up: {bytes(self._store.get(ABORTED)).decode()}")
            if monotonic() > deadline:
                raise RuntimeError(f"{problem} in {self._timeout_s:g} s")
            sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)


def gloo_store(store: Store, group: str) -> PrefixStore:
    """gloo keeps keys of its own: ours stay apart from them."""
    return PrefixStore(f"{group}/gloo", store)


def _own_address(host: str) -> str:
    """The address of this machine's interface that leads to `host`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return str(probe.getsockname()[0])
