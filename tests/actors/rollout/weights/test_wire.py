"""The wire between sender and receivers, in threads of one process."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._C._distributed_c10d import TCPStore

from actors.rollout.weights import rendezvous as meeting
from actors.rollout.weights import wire
from actors.rollout.weights.carriers import (
    FILE_PREFIX,
    SHARED_MEMORY,
    Carrier,
    GlooCarrier,
    Transfer,
)
from actors.rollout.weights.rendezvous import Rendezvous
from actors.rollout.weights.wire import Manifest, TransferAddress, WeightPushError, WeightSender
from actors.rollout.worker import RolloutSettings

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


def opened(
    dtype: str = "float32",
    receivers: int = 1,
    transfer: Transfer = "gloo",
    folder: Path | None = None,
    timeout_s: float = 20.0,
) -> tuple[Rendezvous, TransferAddress]:
    place = Rendezvous(host="127.0.0.1")
    where = None if folder is None else str(folder)
    return place, place.open(1 + receivers, dtype, 4096, timeout_s, transfer, where)


def leftovers() -> list[Path]:
    return list(SHARED_MEMORY.glob(f"{FILE_PREFIX}*"))


def receive(receiver: wire.WeightReceiver) -> tuple[dict[str, Tensor], Manifest | None]:
    return {n: t for bucket in receiver.buckets() for n, t in bucket}, receiver.manifest


def connect(
    pool: ThreadPoolExecutor, address: TransferAddress
) -> tuple[WeightSender, list[wire.WeightReceiver]]:
    joining = [
        pool.submit(wire.WeightReceiver, address, rank) for rank in range(1, address.world_size)
    ]
    return WeightSender(address), [future.result() for future in joining]


@pytest.mark.parametrize(
    ("dtype", "transfer"),
    [
        ("float32", "gloo"),
        ("bfloat16", "gloo"),
        ("bfloat16", "shared_memory"),
        ("float32", "disk"),
    ],
)
def test_what_is_sent_arrives_cast_in_every_receiver(
    pool: ThreadPoolExecutor, tmp_path: Path, dtype: str, transfer: Transfer
) -> None:
    folder = tmp_path if transfer == "disk" else None
    place, address = opened(dtype, receivers=2, transfer=transfer, folder=folder)
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
    assert not list(tmp_path.iterdir())
    assert not leftovers()


def test_one_broadcast_per_bucket_never_one_per_tensor(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    _place, address = opened()
    sender, (receiver,) = connect(pool, address)
    sizes: list[int] = []
    send = GlooCarrier.send

    def counted(self: GlooCarrier, payload: Tensor, key: str) -> None:
        sizes.append(payload.numel())
        send(self, payload, key)

    monkeypatch.setattr(GlooCarrier, "send", counted)
    many = {f"w{i}": torch.ones(8) * i for i in range(300)} | {"large": torch.zeros(4096)}
    arriving = pool.submit(receive, receiver)
    manifest = sender.send(many.items())
    assert len(arriving.result()[0]) == 301
    # 300 tensors of 32 bytes are three buckets of 4096 bytes; the large one goes alone.
    assert sizes == [4096, 4096, 1408, 16384]
    assert (manifest.buckets, manifest.bytes) == (4, sum(sizes))


@pytest.mark.parametrize("transfer", ["gloo", "shared_memory"])
def test_a_byte_changed_on_the_way_is_noticed(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, transfer: Transfer
) -> None:
    _place, address = opened(transfer=transfer)
    sender, (receiver,) = connect(pool, address)
    carrier = type(receiver._wire.carrier)
    receive_bytes = carrier.receive

    def flipped(self: Carrier, size: int, key: str) -> Tensor:
        payload = receive_bytes(self, size, key)
        payload[7] ^= 1
        return payload

    monkeypatch.setattr(carrier, "receive", flipped)
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


def test_a_receiver_that_does_not_read_fails_the_sender_and_leaves_no_file(
    pool: ThreadPoolExecutor,
) -> None:
    _place, address = opened(transfer="shared_memory", timeout_s=0.3)
    sender, _receivers = connect(pool, address)
    with pytest.raises(WeightPushError, match=r"not read by every engine in 0\.3 s"):
        sender.send(WEIGHTS.items())
    assert not leftovers()


def test_a_receiver_that_stops_half_way_frees_the_sender_at_once(
    pool: ThreadPoolExecutor,
) -> None:
    _place, address = opened(transfer="shared_memory")
    sender, (receiver,) = connect(pool, address)

    def stop_half_way() -> None:
        buckets = receiver.buckets()
        next(buckets)
        buckets.close()

    leaving = pool.submit(stop_half_way)
    many = {f"w{i}": torch.ones(1024) * i for i in range(4)}
    with pytest.raises(WeightPushError, match="given up: an engine did not take them"):
        sender.send(many.items())
    leaving.result()
    assert not leftovers()


def test_a_folder_that_only_one_side_sees_is_named(
    pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    _place, address = opened(transfer="disk", folder=tmp_path / "none", timeout_s=0.5)
    sender, (receiver,) = connect(pool, address)
    arriving = pool.submit(receive, receiver)
    with pytest.raises(WeightPushError, match="No such file or directory"):
        sender.send(WEIGHTS.items())
    with pytest.raises(WeightPushError, match=r"did not arrive: .*was not written in 0\.5 s"):
        arriving.result()


def test_a_disk_needs_its_folder() -> None:
    with pytest.raises(ValueError, match="go together"):
        RolloutSettings(transfer="disk")


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
