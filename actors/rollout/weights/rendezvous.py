"""Where policy and rollout engines meet for the weight push: a small store kept by the driver."""

import logging
import os
from itertools import count

from torch._C._distributed_c10d import PrefixStore, TCPStore

from actors.rollout.weights.carriers import ABORTED, Transfer
from actors.rollout.weights.wire import TransferAddress, WeightPushError

logger = logging.getLogger(__name__)

PORTS_TRIED = 16
_numbers = count()


class Rendezvous:
    """Hosts the store; one address serves all pushes until one of them fails."""

    def __init__(self, port: int = 0, host: str | None = None) -> None:
        """Listen on `port`, or the next free one of 16; 0 takes any free port.

        Raises `WeightPushError` when all of them are taken.
        """
        self.host = host or _node_address()
        self._store = _listen(self.host, port)
        self.address: TransferAddress | None = None

    @property
    def port(self) -> int:
        """The port really used."""
        return int(self._store.port)

    def open(
        self,
        world_size: int,
        dtype: str,
        bucket_bytes: int,
        timeout_s: float,
        transfer: Transfer = "gloo",
        folder: str | None = None,
    ) -> TransferAddress:
        """The address in use, or a fresh one after an abort."""
        if self.address is None:
            group = f"weights-{os.getpid()}-{next(_numbers)}"
            self.address = TransferAddress(
                self.host,
                self.port,
                group,
                world_size,
                dtype,
                bucket_bytes,
                timeout_s,
                transfer,
                folder,
            )
        return self.address

    def abort(self, reason: str) -> None:
        """Free whoever waits at the address, which is used up by this."""
        if self.address is not None:
            PrefixStore(self.address.group, self._store).set(ABORTED, reason)
            self.address = None


def _node_address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


def _listen(host: str, port: int) -> TCPStore:
    candidates = range(port, min(port + PORTS_TRIED, 2**16)) if port else [0]
    for candidate in candidates:
        try:
            store = TCPStore(host, candidate, is_master=True, wait_for_workers=False)
        except RuntimeError as error:
            logger.info("port %d of %s is taken: %s", candidate, host, error)
            continue
        if candidate not in (port, 0):
            logger.warning("port %d is taken, the weight push uses %d", port, candidate)
        return store
    raise WeightPushError(
        f"ports {port} to {port + PORTS_TRIED - 1} of {host} are all in use: "
        "set rollout.transfer_port to a free one, or to 0 for any"
    )
