"""One training on several processes of this machine: started, watched and stopped from here."""

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain_core.deepspeed import import_deepspeed
from pretrain_core.errors import InputError, RunFailed
from pretrain_core.runs import Run, StopSignal, read_json, write_json
from reward.conditions import Conditions
from reward.data import Preference
from reward.errors import RewardTrainingError, RewardTrainingStopped
from reward.settings import LaunchSettings, RewardTrainSettings

if TYPE_CHECKING:
    from accelerate import PartialState

LOOPBACK = "127.0.0.1"
POLL = 0.5  # seconds between two looks at a requested stop
GRACE = 10.0  # seconds that the others have to end when one has failed


@dataclass(frozen=True)
class Job:
    """The arguments of `train_reward`, as they travel to the processes."""

    settings: RewardTrainSettings
    base: Path
    train: list[Preference]
    out: Path
    conditions: Conditions
    parents: Mapping[str, Path]
    seed: int
    distil: list[Preference]
    level: list[Preference]
    run: Path | None = None


def needs_launch(settings: LaunchSettings) -> bool:
    """Whether processes are to be started: not where `torchrun` or this module has done so.

    Raises RewardTrainingError where that number is another than `launch.workers`.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started == 1 and "LOCAL_RANK" not in os.environ:
        return settings.workers > 1 or settings.engine == "deepspeed"
    if settings.workers not in (1, started):
        raise RewardTrainingError(
            f"launch.workers is {settings.workers}, but {started} processes were started: leave "
            "out one of the two"
        )
    return False


def launch(job: Job, train: Callable[..., Path], run: Run | None, stop: StopSignal | None) -> Path:
    """Run `train` (`train_reward`) on `launch.workers` processes; raises what it raises.

    A process that dies takes the others with it. A stop is passed on to all of them.
    """
    from torch.multiprocessing.spawn import (
        ProcessExitedException,
        ProcessRaisedException,
        start_processes,
    )

    job = replace(job, run=None if run is None else run.path)
    failure = _failure_file(job)
    failure.unlink(missing_ok=True)
    failure.parent.mkdir(parents=True, exist_ok=True)
    workers = job.settings.launch.workers
    context = start_processes(  # type: ignore[no-untyped-call]
        _work, (job, train, _free_port()), workers, join=False, daemon=True, start_method="spawn"
    )
    assert context is not None
    passed_on = False
    try:
        while not context.join(timeout=POLL, grace_period=GRACE):
            if stop is not None and stop.requested and not passed_on:
                passed_on = True
                _stop_file(job).touch()
    except (ProcessExitedException, ProcessRaisedException) as error:
        if failure.exists():
            raise _named(read_json(failure)) from error
        raise RewardTrainingError(
            f"worker {error.error_index} of {workers} ended early: {error}; the same command "
            "continues from the last saved state (save_every)"
        ) from error
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
        failure.unlink(missing_ok=True)
        _stop_file(job).unlink(missing_ok=True)
    if run is not None:
        run.record()  # takes in what the first process has recorded
    return job.out


class StopFile(StopSignal):
    """A stop that another process asks for by a file; signals are honoured too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__("")

    @property
    def requested(self) -> bool:
        """Whether anyone has asked."""
        return self._asked or self._path.exists()

    @requested.setter
    def requested(self, value: bool) -> None:
        self._asked = value


def _work(rank: int, job: Job, train: Callable[..., Path], port: int) -> None:
    """One process; runs in a fresh interpreter."""
    import torch

    settings = job.settings.launch
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(settings.workers),
        "LOCAL_WORLD_SIZE": str(settings.workers),
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(port),
    }
    if not torch.cuda.is_available():
        threads = max(1, torch.get_num_threads() // settings.workers)
        torch.set_num_threads(threads)
        os.environ |= {"OMP_NUM_THREADS": str(threads), "DS_ACCELERATOR": "cpu"}
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    run = Run.open(job.run) if job.run is not None and rank == 0 else None
    with StopFile(_stop_file(job)) as stop:
        try:
            train(
                job.settings,
                base=job.base,
                train=job.train,
                distil=job.distil,
                level=job.level,
                out=job.out,
                conditions=job.conditions,
                run=run,
                parents=job.parents,
                seed=job.seed,
                stop=stop,
            )
        except (InputError, RunFailed) as error:
            kind = "stopped" if isinstance(error, RewardTrainingStopped) else "failed"
            write_json(_failure_file(job), {"kind": kind, "message": str(error)})
            raise
        finally:
            if run is not None:
                run.close()
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def ranks(settings: LaunchSettings) -> "PartialState":
    """The processes of this training, met: one, or what was started."""
    import torch
    from accelerate import PartialState

    cuda = torch.cuda.is_available()
    if settings.engine == "ddp":
        return PartialState(cpu=not cuda)
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    import_deepspeed()
    return PartialState(backend="nccl" if cuda else "gloo")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _failure_file(job: Job) -> Path:
    return job.out.with_name(f".{job.out.name}.failure.json")


def _stop_file(job: Job) -> Path:
    return job.out.with_name(f".{job.out.name}.stop")


def _named(failure: dict[str, str]) -> RunFailed:
    if failure["kind"] == "stopped":
        return RewardTrainingStopped(failure["message"])
    return RewardTrainingError(failure["message"])
