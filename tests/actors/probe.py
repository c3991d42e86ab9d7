"""Workers for tests: what a test wants to see or to break inside an actor."""

import gc
import os
import signal

import torch
import torch.distributed as dist
from torch import Tensor

from actors.critic import CriticWorker
from actors.host import HostWorker
from actors.policy import PolicySettings, PolicyWorker
from actors.worker import Worker


class ProbePolicyWorker(PolicyWorker):
    """A policy whose settings change between loads, and whose weights can be seen and broken."""

    def configure(self, settings: PolicySettings) -> None:
        self.settings = settings

    def all_weights(self) -> dict[str, Tensor]:
        return {name: weight.clone() for name, weight in self.engine.named_weights()}

    def random_number(self) -> float:
        return torch.rand(()).item()

    def kept(self) -> int:
        """How many forward passes are kept."""
        return len(self.gradient.kept)

    def threads(self) -> tuple[int, str]:
        return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


class ProbeCriticWorker(CriticWorker):
    """A critic whose weights can be seen."""

    def all_weights(self) -> dict[str, Tensor]:
        return {name: weight.clone() for name, weight in self.engine.named_weights()}


class ProbeHostWorker(HostWorker):
    """A host whose memory can be looked at."""

    def frozen_bytes(self) -> int:
        """Of all frozen weights in this process, each place in memory once."""
        gc.collect()
        found = {
            weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes()
            for weight in gc.get_objects()
            if isinstance(weight, torch.nn.Parameter) and not weight.requires_grad
        }
        return sum(found.values())


class FragileWorker(Worker):
    """Fails in the ways that real workers do."""

    def total(self, value: int) -> int:
        result = torch.tensor(value)
        dist.all_reduce(result)
        return int(result)

    def fail_on(self, rank: int) -> int:
        """One rank raises; the others wait for it in a collective."""
        if self.place.rank == rank:
            raise KeyError("no such column")
        return self.total(1)

    def die_on(self, rank: int) -> int:
        """One rank is killed; the others lose their peer in a collective."""
        if self.place.rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.total(1)

    def niceness(self) -> int:
        return os.nice(0)

    def wait_for_ever(self) -> None:
        """Stay busy until killed."""
        signal.pause()


class EchoWorker(Worker):
    """Gives back what it gets."""

    def echo(self, value: Tensor) -> Tensor:
        return value


class UnstartableWorker(Worker):
    """Cannot be built."""

    def __init__(self, *_: object) -> None:
        raise OSError("no room on device")
