"""Weights on the wire: buckets, described and checked through a small key-value store.

Per push, for bucket i = 0, 1, …: the sender puts the bucket's table (names, shapes, dtypes) into
the store and has its bytes carried once. The last entry holds the checksum of everything, which
every receiver compares with its own. Nothing is gathered before it is needed, so a sharded trainer
sends without ever holding the whole model.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from math import prod
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypedDict

import torch
import xxhash
from torch import Tensor
from torch._C import _DistError as DistError
from torch._C._distributed_c10d import PrefixStore, TCPStore

from actors.rollout.requests import RolloutError
from actors.rollout.weights.carriers import (
    ABORTED,
    LONGEST_PAUSE_S,
    SHARED_MEMORY,
    Carrier,
    FileCarrier,
    GlooCarrier,
    Transfer,
    gloo_store,
)

ALIGNMENT = 16


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
    transfer: Transfer = "gloo"
    folder: str | None = None
    """Of files, for `disk`."""


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
    """One end of the connection: the store, and what carries bytes."""

    def __init__(self, address: TransferAddress, rank: int) -> None:
        self.address = address
        self.pushes = 0
        timeout = timedelta(seconds=address.timeout_s)
        try:
            tcp = TCPStore(address.host, address.port, is_master=False, timeout=timeout)
            self.store = PrefixStore(address.group, tcp)
            self.carrier = self._carrier(tcp, rank, timeout)
        except (RuntimeError, OSError) as error:
            raise WeightPushError(
                f"no weight-transfer connection to {address.host}:{address.port}: {error}"
            ) from error

    def _carrier(self, tcp: TCPStore, rank: int, timeout: timedelta) -> Carrier:
        address = self.address
        if address.transfer == "gloo":
            meeting = gloo_store(tcp, address.group)
            return GlooCarrier(meeting, rank, address.world_size, address.host, timeout)
        folder = SHARED_MEMORY if address.folder is None else Path(address.folder)
        receivers = address.world_size - 1
        return FileCarrier(self.store, address.group, receivers, folder, address.timeout_s)


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

        Carried once per bucket, however many tensors. Raises `WeightPushError` when a receiver
        went away; the address is then used up.
        """
        wire, tally = self._wire, _Tally()
        dtype = getattr(torch, wire.address.dtype)
        for batch in _batches(weights, dtype, wire.address.bucket_bytes):
            rows, payload = _packed(batch, dtype)
            table = json.dumps(rows).encode()
            key = _key(wire.pushes, tally.buckets)
            wire.store.set(key, table.decode())
            tally.add(table, rows, payload)
            try:
                wire.carrier.send(payload, key)
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
        the sender fails, is silent for too long, or its checksum differs. Whoever stops before the
        end frees the sender.
        """
        self.manifest = None
        try:
            yield from self._buckets()
        finally:
            if self.manifest is None:
                self._wire.carrier.leave()

    def _buckets(self) -> Iterator[list[tuple[str, Tensor]]]:
        wire, tally = self._wire, _Tally()
        while True:
            key = _key(wire.pushes, tally.buckets)
            table = self._next(key)
            rows = json.loads(table)
            if isinstance(rows, dict):
                break
            try:
                payload = wire.carrier.receive(sum(row["bytes"] for row in rows), key)
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
