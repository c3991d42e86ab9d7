"""The processes that train together, and the few things that they must agree on."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Rank, number of ranks and device of this process; `mesh` is None for a single process."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh | None = None

    @classmethod
    @contextmanager
    def start(cls) -> Iterator["World"]:
        """Join the processes that `torchrun` started, or be alone without it."""
        cuda = torch.cuda.is_available()
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            yield cls(0, 1, torch.device("cuda" if cuda else "cpu"))
            return
        device = torch.device("cpu")
        if cuda:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if cuda else "gloo")
        try:
            mesh = init_device_mesh(device.type, (size,), mesh_dim_names=("dp_shard",))
            yield cls(dist.get_rank(), size, device, mesh)
        finally:
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this process writes logs and exports."""
        return self.rank == 0

    def gather(self, values: Sequence[float]) -> torch.Tensor:
        """Rows of all ranks, fp64 `[ranks, len(values)]`, the same on each rank."""
        rows = torch.zeros(self.size, len(values), dtype=torch.float64, device=self.device)
        rows[self.rank] = torch.tensor(values, dtype=torch.float64)
        if self.size > 1:
            dist.all_reduce(rows)
        return rows.cpu()

    def from_lead(self, value: T) -> T:
        """The value that rank 0 holds."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()

    def shared_path(self, path: Path | None) -> Path:
        """The path that rank 0 holds, on every rank."""
        shared = self.from_lead(path)
        assert shared is not None, "rank 0 holds the run"
        return shared
