"""The weight push as the driver does it: send, receive, compare checksums, probe."""

from dataclasses import dataclass
from time import monotonic
from typing import Any, NoReturn, Protocol

import torch

from actors.batch import Sequences
from actors.group import ActorFailed, Pending
from actors.rollout.rollout import Rollout
from actors.rollout.weights.probe import (
    PROBE_SAMPLING,
    ProbeReport,
    check_probe,
    probe_batch,
    probe_requests,
)
from actors.rollout.weights.wire import Manifest, TransferAddress, WeightPushError, WeightSender

__all__ = [
    "Manifest",
    "PushReport",
    "TransferAddress",
    "WeightPushError",
    "WeightSender",
    "push",
]

ROOT_ERROR_WAIT_S = 10.0


class Source(Protocol):
    """What has weights to push: the policy; `products`: the format of its matrix products."""

    products: torch.dtype

    def send_weights(self, address: TransferAddress) -> Pending[Manifest]:
        """Send all weights to whoever receives at the address."""
        ...

    def logprobs(self, batch: Sequences) -> Pending[Any]:
        """`.logprobs` `[tokens]` at the action tokens of the batch."""
        ...


@dataclass(frozen=True)
class PushReport:
    """One push: what arrived in every engine, how long it took, and what the probe saw."""

    version: int
    checksum: str
    bytes: int
    buckets: int
    seconds: float
    probe: ProbeReport | None


def push(
    policy: Source,
    rollout: Rollout,
    version: int,
    *,
    probe: bool = True,
) -> PushReport:
    """Bring the policy's weights into every rollout engine and prove that they are there.

    Raises `WeightPushError` when a checksum or, unless `probe` is off, a log-prob differs, and
    ActorFailed when a process died. After an error the engines refuse to sample.
    """
    start = monotonic()
    receiving = rollout.receive(version)
    assert rollout.rendezvous is not None
    assert rollout.rendezvous.address is not None
    sending = policy.send_weights(rollout.rendezvous.address)
    try:
        sent = sending.result()
        received = receiving.result()
    except ActorFailed as error:
        _give_up(rollout, receiving, error)
    for replica, manifest in enumerate(received):
        if manifest != sent:
            raise WeightPushError(f"engine {replica} received {manifest}, the policy sent {sent}")
    rollout.version = version
    seconds = monotonic() - start
    found = _probe(policy, rollout, version) if probe else None
    return PushReport(version, sent.checksum, sent.bytes, sent.buckets, seconds, found)


def _give_up(rollout: Rollout, receiving: Pending[Any], error: ActorFailed) -> NoReturn:
    """Free the other side and raise what went wrong first, not what followed from it."""
    assert rollout.rendezvous is not None
    rollout.rendezvous.abort(str(error.cause))
    root = error
    if error.role != "rollout" and isinstance(error.cause, WeightPushError):
        # The sender lost an engine: the engine knows why.
        try:
            receiving.result(timeout=ROOT_ERROR_WAIT_S)
        except ActorFailed as engine_error:
            root = engine_error
        except TimeoutError:
            pass
    if isinstance(root.cause, WeightPushError):
        raise WeightPushError(str(root.cause)) from root
    raise root


def _probe(policy: Source, rollout: Rollout, version: int) -> ProbeReport:
    requests = probe_requests(rollout.facts.vocab_size, version)
    batch = probe_batch(requests, list(rollout.generate(requests, PROBE_SAMPLING, ())))
    trainer = policy.logprobs(batch)
    engines = rollout.probe(batch)
    half = policy.products == torch.bfloat16 or rollout.facts.dtype == "bfloat16"
    dtype = "bfloat16" if half else "float32"
    reports = [
        check_probe(batch, engine, trainer.result().logprobs, dtype, replica)
        for replica, engine in enumerate(engines)
    ]
    return max(reports, key=lambda report: report.max_gap)
