"""Weights on the wire: buckets over gloo, described and checked through a small key-value store.

Per push, for bucket i = 0, 1, …: the sender puts the bucket's table (names, shapes, dtypes) into
the store and broadcasts its bytes once. The last entry holds the checksum of
everything, which every receiver compares with its own. Nothing is gathered before it is needed, so
a sharded trainer sends without ever holding the whole model.
"""

import json
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from math import prod
from time import monotonic, sleep
from typing import Any, TypedDict

import torch
import xxhash
from torch import Tensor
from torch._C import _DistError as DistError
from torch._C._distributed_c10d import (
    BroadcastOptions,
    PrefixStore,
    ProcessGroupGloo,
    TCPStore,
)

from actors.rollout.requests import RolloutError

ALIGNMENT = 16
LONGEST_PAUSE_S = 0.02
ABORTED = "aborted"


class WeightPushError(RolloutError):
    """Weights that did not arrive whole and equal; the engine must not sample with them."""


@dataclass(frozen=True)
class TransferAddress:
    """Where sender (rank 0) and receivers (from rank 1) meet, and what they agree on."""

    host: str
    port: int
    group: str
    world_size: int
    dtype: str
    bucket_bytes: int = 64 * 2**20
    timeout_s: float = 120.0


@dataclass(frozen=True)
class Manifest:
    """What one push carried: parameter names in order, bytes and buckets, checksum of it all."""

    names: tuple[str, ...]
    bytes: int
    buckets: int
    checksum: str


class _Row(TypedDict):
    """One tensor of a bucket; `bytes` counts the padding up to the next one."""

    name: str
    shape: list[int]
    dtype: str
    bytes: int


@dataclass
class _Tally:
    """Running names, sizes and checksum, counted alike on both sides."""

    names: list[str] = field(default_factory=list)
    size: int = 0
    buckets: int = 0
    digest: Any = field(default_factory=xxhash.xxh3_128)

    def add(self, table: bytes, rows: list[_Row], payload: Tensor) -> None:
        self.names += [row["name"] for row in rows]
        self.size += payload.numel()
        self.buckets += 1
        self.digest.update(table)
        self.digest.update(payload.numpy().data)

    def manifest(self) -> Manifest:
        return Manifest(tuple(self.names), self.size, self.buckets, self.digest.hexdigest())


class _Wire:
    """One end of the connection: the store and the gloo group."""

    def __init__(self, address: TransferAddress, rank: int) -> None:
        self.address = address
        self.pushes = 0
        timeout = timedelta(seconds=address.timeout_s)
        try:
            tcp = TCPStore(address.host, address.port, is_master=False, timeout=timeout)
            # gloo keeps keys of its own: ours stay apart from them.
            self.store = PrefixStore(address.group, tcp)
            meeting = PrefixStore(f"{address.group}/gloo", tcp)
            options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
            options._devices = [ProcessGroupGloo.create_device(hostname=_own_address(address.host))]
            options._timeout = timeout
            self.group = ProcessGroupGloo(meeting, rank, address.world_size, options)
        except (RuntimeError, OSError) as error:
            raise WeightPushError(
                f"no weight-transfer connection to {address.host}:{address.port}: {error}"
            ) from error

    def broadcast(self, payload: Tensor) -> None:
        options = BroadcastOptions()
        options.rootRank = 0
        self.group.broadcast([payload], options).wait()  # type: ignore[attr-defined]


class WeightSender:
    """The sending end, in rank 0 of the policy; one for each address, reused for every push."""

    def __init__(self, address: TransferAddress) -> None:
        self._wire = _Wire(address, rank=0)

    @property
    def address(self) -> TransferAddress:
        """Where this sender is connected."""
        return self._wire.address

    def send(self, weights: Iterable[tuple[str, Tensor]]) -> Manifest:
        """Send (Hugging Face name, full tensor) pairs, cast to the engine's dtype.

        One broadcast per bucket, however many tensors. Raises `WeightPushError` when a receiver
        went away; the address is then used up.
        """
        wire, tally = self._wire, _Tally()
        dtype = getattr(torch, wire.address.dtype)
        for batch in _batches(weights, dtype, wire.address.bucket_bytes):
            rows, payload = _packed(batch, dtype)
            table = json.dumps(rows).encode()
            wire.store.set(_key(wire.pushes, tally.buckets), table.decode())
            tally.add(table, rows, payload)
            try:
                wire.broadcast(payload)
            except RuntimeError as error:
                raise WeightPushError(
                    f"bucket {tally.buckets - 1} was not taken by every engine: {error}"
                ) from error
        end = json.dumps({"checksum": tally.digest.hexdigest()})
        wire.store.set(_key(wire.pushes, tally.buckets), end)
        wire.pushes += 1
        return tally.manifest()


class WeightReceiver:
    """The receiving end, in a rollout engine."""

    def __init__(self, address: TransferAddress, rank: int) -> None:
        self._wire = _Wire(address, rank)
        self.manifest: Manifest | None = None

    @property
    def address(self) -> TransferAddress:
        """Where this receiver is connected."""
        return self._wire.address

    def buckets(self) -> Iterator[list[tuple[str, Tensor]]]:
        """Yield the tensors of each bucket; sets `manifest` at the end.

        Each bucket has memory of its own, so tensors may be kept. Raises `WeightPushError` when
        the sender fails, is silent for too long, or its checksum differs.
        """
        wire, tally = self._wire, _Tally()
        self.manifest = None
        while True:
            table = self._next(_key(wire.pushes, tally.buckets))
            rows = json.loads(table)
            if isinstance(rows, dict):
                break
            payload = torch.empty(sum(row["bytes"] for row in rows), dtype=torch.uint8)
            try:
                wire.broadcast(payload)
            except RuntimeError as error:
                raise WeightPushError(f"bucket {tally.buckets} did not arrive: {error}") from error
            tally.add(table, rows, payload)
            yield list(_unpacked(rows, payload))
        wire.pushes += 1
        manifest = tally.manifest()
        if rows["checksum"] != manifest.checksum:
            raise WeightPushError(
                f"the weights changed on the wire: checksum {manifest.checksum} received, "
                f"{rows['checksum']} sent ({manifest.bytes} bytes, {manifest.buckets} buckets)"
            )
        self.manifest = manifest

    def _next(self, key: str) -> bytes:
        """Wait for an entry; polled, so that an abort frees the engine within moments."""
        store, silence = self._wire.store, self._wire.address.timeout_s
        deadline, pause = monotonic() + silence, 0.0005
        try:
            while not store.check([key]):
                if store.check([ABORTED]):
                    reason = bytes(store.get(ABORTED)).decode()
                    raise WeightPushError(f"the push was given up: {reason}")
                if monotonic() > deadline:
                    raise WeightPushError(f"nothing came from the policy for {silence:.0f} s")
                sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            return bytes(store.get(key))
        except DistError as error:
            raise WeightPushError(f"the driver's store is gone: {error}") from error


def _key(push: int, bucket: int) -> str:
    return f"push {push} bucket {bucket}"


def _own_address(host: str) -> str:
    """The address of this machine's interface that leads to `host`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return str(probe.getsockname()[0])


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _wire_dtype(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if tensor.is_floating_point() else tensor.dtype


def _batches(
    weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype, limit: int
) -> Iterator[list[tuple[str, Tensor]]]:
    """Consecutive tensors of at most `limit` bytes together; a larger one goes alone."""
    batch: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in weights:
        more = _padded(tensor.numel() * _wire_dtype(tensor, dtype).itemsize)
        if batch and size + more > limit:
            yield batch
            batch, size = [], 0
        batch.append((name, tensor))
        size += more
    if batch:
        yield batch


def _packed(batch: list[tuple[str, Tensor]], dtype: torch.dtype) -> tuple[list[_Row], Tensor]:
    rows: list[_Row] = [
        {
            "name": name,
            "shape": list(tensor.shape),
            "dtype": str(_wire_dtype(tensor, dtype)).removeprefix("torch."),
            "bytes": _padded(tensor.numel() * _wire_dtype(tensor, dtype).itemsize),
        }
        for name, tensor in batch
    ]
    payload = torch.empty(sum(row["bytes"] for row in rows), dtype=torch.uint8)
    for (_, place), (_, tensor) in zip(_unpacked(rows, payload), batch, strict=True):
        place.copy_(tensor.detach())
    return rows, payload


def _unpacked(rows: list[_Row], payload: Tensor) -> Iterator[tuple[str, Tensor]]:
    start = 0
    for row in rows:
        dtype, shape = getattr(torch, row["dtype"]), row["shape"]
        stop = start + prod(shape) * dtype.itemsize
        yield row["name"], payload[start:stop].view(dtype).view(shape)
        start += row["bytes"]
