"""The wire between sender and receivers, in threads of one process."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from torch._C._distributed_c10d import TCPStore

from actors.rollout import rendezvous as meeting
from actors.rollout import wire
from actors.rollout.rendezvous import Rendezvous
from actors.rollout.wire import Manifest, TransferAddress, WeightPushError, WeightSender

WEIGHTS = {
    "embed": torch.arange(600.0).view(30, 20),
    "head": torch.randn(64, 64, generator=torch.Generator().manual_seed(0)),
    "scalar": torch.tensor(3.0),
    "steps": torch.tensor([1, 2, 3]),
    "empty": torch.zeros(0, 4),
}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def opened(dtype: str = "float32", receivers: int = 1) -> tuple[Rendezvous, TransferAddress]:
    place = Rendezvous(host="127.0.0.1")
    return place, place.open(1 + receivers, dtype, 4096, 20.0)


def receive(receiver: wire.WeightReceiver) -> tuple[dict[str, Tensor], Manifest | None]:
    return {n: t for bucket in receiver.buckets() for n, t in bucket}, receiver.manifest


def connect(
    pool: ThreadPoolExecutor, address: TransferAddress
) -> tuple[WeightSender, list[wire.WeightReceiver]]:
    joining = [
        pool.submit(wire.WeightReceiver, address, rank) for rank in range(1, address.world_size)
    ]
    return WeightSender(address), [future.result() for future in joining]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_sent_arrives_cast_in_every_receiver(pool: ThreadPoolExecutor, dtype: str) -> None:
    place, address = opened(dtype, receivers=2)
    sender, receivers = connect(pool, address)
    assert place.address == address
    for _ in range(2):
        arriving = [pool.submit(receive, receiver) for receiver in receivers]
        sent = sender.send(WEIGHTS.items())
        for tensors, manifest in (future.result() for future in arriving):
            assert manifest == sent
            assert sent.names == tuple(WEIGHTS)
            assert list(tensors) == list(WEIGHTS)
            for name, tensor in WEIGHTS.items():
                cast = tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
                assert torch.equal(tensors[name], cast)


def test_one_broadcast_per_bucket_never_one_per_tensor(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    _place, address = opened()
    sender, (receiver,) = connect(pool, address)
    sizes: list[int] = []
    broadcast = wire._Wire.broadcast

    def counted(self: wire._Wire, payload: Tensor) -> None:
        if self is sender._wire:
            sizes.append(payload.numel())
        broadcast(self, payload)

    monkeypatch.setattr(wire._Wire, "broadcast", counted)
    many = {f"w{i}": torch.ones(8) * i for i in range(300)} | {"large": torch.zeros(4096)}
    arriving = pool.submit(receive, receiver)
    manifest = sender.send(many.items())
    assert len(arriving.result()[0]) == 301
    # 300 tensors of 32 bytes are three buckets of 4096 bytes; the large one goes alone.
    assert sizes == [4096, 4096, 1408, 16384]
    assert (manifest.buckets, manifest.bytes) == (4, sum(sizes))


def test_a_byte_changed_on_the_way_is_noticed(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    _place, address = opened()
    sender, (receiver,) = connect(pool, address)
    broadcast = wire._Wire.broadcast

    def flipped(self: wire._Wire, payload: Tensor) -> None:
        broadcast(self, payload)
        if self is receiver._wire:
            payload[7] ^= 1

    monkeypatch.setattr(wire._Wire, "broadcast", flipped)
    arriving = pool.submit(receive, receiver)
    sender.send(WEIGHTS.items())
    with pytest.raises(WeightPushError, match="changed on the wire"):
        arriving.result()


def test_an_abort_frees_the_receiver_and_uses_the_address_up(pool: ThreadPoolExecutor) -> None:
    place, address = opened()
    _, (receiver,) = connect(pool, address)
    arriving = pool.submit(receive, receiver)
    place.abort("the policy died")
    with pytest.raises(WeightPushError, match="given up: the policy died"):
        arriving.result()
    assert place.open(2, "float32", 4096, 20.0) != address


def test_a_receiver_that_leaves_fails_the_sender(pool: ThreadPoolExecutor) -> None:
    _place, address = opened()
    sender, receivers = connect(pool, address)
    receivers.clear()
    with pytest.raises(WeightPushError, match="not taken by every engine"):
        sender.send(WEIGHTS.items())


def test_nobody_at_the_address_is_an_error_with_the_address() -> None:
    address = TransferAddress("127.0.0.1", 9, "nobody", 2, "float32", timeout_s=0.2)
    with pytest.raises(WeightPushError, match=r"connection to 127\.0\.0\.1:9"):
        WeightSender(address)


def test_a_taken_port_gives_the_next_one_or_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    assert Rendezvous(taken.port, "127.0.0.1").port > taken.port
    monkeypatch.setattr(meeting, "PORTS_TRIED", 1)
    with pytest.raises(WeightPushError, match=f"ports {taken.port} to .* are all in use"):
        Rendezvous(taken.port, "127.0.0.1")
