"""One rank of a role: a process with its threads, its peers and their process group."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

# The driver hears of a failed rank at once; this ends the ranks that would wait for it for ever.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Rank:
    """The place of one worker in its group."""

    role: str
    rank: int
    world_size: int
    threads: int
    gpus: float = 0.0

    @property
    def device(self) -> str:
        """Where its models live: `cuda` if the rank was given a GPU, else `cpu`."""
        return "cuda" if self.gpus else "cpu"

    @property
    def environment(self) -> dict[str, str]:
        """What the process must start with: OpenMP reads its threads only once."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": "0",
            "OMP_NUM_THREADS": str(self.threads),
            # Roles share the cores in turns: waiting threads must not spin on them.
            "OMP_WAIT_POLICY": "PASSIVE",
            # Ray's own 15 lets whatever else computes on the machine stop a worker nearly whole.
            "RAY_worker_niceness": "0",
            # Read by DeepSpeed at import.
            "DS_ACCELERATOR": self.device,
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
        }


class Worker:
    """Base of all workers; methods are called from the driver through a `Group`."""

    def __init__(self, place: Rank) -> None:
        self.place = place
        torch.set_num_threads(place.threads)

    def __repr__(self) -> str:
        return f"{self.place.role}-{self.place.rank}"

    def open_store(self) -> tuple[str, int]:
        """On rank 0: open the rendezvous on a port that the system chose; (address, port)."""
        import ray

        address = ray.util.get_node_ip_address()
        self._store = TCPStore(
            address, 0, self.place.world_size, is_master=True, wait_for_workers=False
        )
        return address, self._store.port

    def join(self, meeting: tuple[str, int], timeout_s: float) -> None:
        """Enter the group's process group: gloo on CPU, nccl between GPUs."""
        address, port = meeting
        os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
        timeout = timedelta(seconds=timeout_s)
        if self.place.rank > 0:
            self._store = TCPStore(
                address, port, self.place.world_size, is_master=False, timeout=timeout
            )
        dist.init_process_group(
            "nccl" if self.place.gpus else "gloo",
            store=self._store,
            rank=self.place.rank,
            world_size=self.place.world_size,
            timeout=COLLECTIVE_TIMEOUT,
        )

    def ping(self) -> int:
        """The process id: proof of life."""
        return os.getpid()
