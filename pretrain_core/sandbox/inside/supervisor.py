"""Starts one program under resource limits, watches it and everything it starts, ends them all."""

import os
import resource
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from . import namespaces

WATCH_SECONDS = 0.02
_KILL_SECONDS = 5.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Task(TypedDict):
    """What to run; seconds may be None (no limit), memory, files and output are in bytes."""

    command: list[str]
    environment: dict[str, str]
    files: dict[str, str]
    wall_seconds: float | None
    cpu_seconds: int | None
    memory: int
    processes: int
    file_bytes: int
    namespaces: bool
    stage: str
    readable: list[str]


@dataclass(frozen=True)
class Process:
    """A living process, as /proc tells it."""

    pid: int
    parent: int
    threads: int
    private_bytes: int


def supervise(task: Task, lifeline: int, user: int | None, counted: bool) -> dict[str, Any]:
    """Run the task's program in the present folder until it ends or breaks a limit.

    `counted`: the kernel counts the processes of this sandbox alone. Returns `exit` or `signal`,
    and the `cause` where a limit was broken (wall, cpu, memory, processes, abandoned).
    """
    started = time.monotonic()
    program = _start(task, user, counted)
    watched = select.poll()
    watched.register(lifeline, select.POLLIN | select.POLLHUP)
    watched.register(os.pidfd_open(program), select.POLLIN)
    ended: tuple[int, float] | None = None
    cause = ""
    while ended is None and not cause:
        if any(descriptor == lifeline for descriptor, _ in watched.poll(WATCH_SECONDS * 1000)):
            cause = "abandoned"
        elif task["wall_seconds"] is not None and _over(started, task["wall_seconds"]):
            cause = "wall"
        else:
            # Counted before the dead are reaped: a bomb whose fuse ended first still shows.
            cause = _excess(task)
        ended = _reap(program)
    for pid in _end_all():
        cause = cause or f"process {pid} outlived its kill"
    if ended is None:
        return {"exit": None, "signal": signal.SIGKILL.value, "cause": cause}
    status, cpu = ended
    code = os.waitstatus_to_exitcode(status)
    limit = task["cpu_seconds"]
    if not cause and code < 0 and limit is not None and cpu >= 0.95 * limit:
        cause = "cpu"
    return {"exit": None if code < 0 else code, "signal": -code if code < 0 else None} | {
        "cause": cause
    }


def _start(task: Task, user: int | None, counted: bool) -> int:
    problem, report = os.pipe()
    program = os.fork()
    if program == 0:
        try:
            os.setsid()
            # Python ignores these two, and what is ignored stays so in the program.
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            _limit(task, user, counted)
            _become(user)
            os.execvpe(task["command"][0], task["command"], task["environment"])
        except OSError as error:
            os.write(report, f"{task['command'][0]}: {error.strerror or error}".encode())
        os._exit(127)
    os.close(report)
    with os.fdopen(problem, "rb") as pipe:
        said = pipe.read().decode()
    if said:
        os.waitpid(program, 0)
        raise OSError(said)
    return program


def _limit(task: Task, user: int | None, counted: bool) -> None:
    limits = {
        resource.RLIMIT_AS: task["memory"],
        resource.RLIMIT_FSIZE: task["file_bytes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 256,
    }
    if counted:
        # One more than allowed, so that the excess is seen; launcher and supervisor count too,
        # unless the program has a user of its own.
        limits[resource.RLIMIT_NPROC] = task["processes"] + (1 if user is not None else 3)
    for kind, wanted in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))
    if task["cpu_seconds"] is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (task["cpu_seconds"], task["cpu_seconds"] + 1))


def _become(user: int | None) -> None:
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    namespaces.forbid_new_privileges()


def _over(started: float, seconds: float) -> bool:
    return time.monotonic() - started > seconds


def _excess(task: Task) -> str:
    alive = list(descendants())
    if sum(process.threads for process in alive) > task["processes"]:
        return "processes"
    return "memory" if sum(process.private_bytes for process in alive) > task["memory"] else ""


def _reap(program: int) -> tuple[int, float] | None:
    """Collect every ended child; (status, CPU seconds) of the program if it is among them."""
    found = None
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == program:
            found = (status, usage.ru_utime + usage.ru_stime)


def descendants() -> Iterator[Process]:
    """Every living process below this one; none where /proc is not to be had."""
    known = [process for process in map(_process, _pids()) if process is not None]
    family = {os.getpid()}
    grown = True
    while grown:
        new = {process.pid for process in known if process.parent in family} - family
        family |= new
        grown = bool(new)
    return (process for process in known if process.pid in family - {os.getpid()})


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _process(pid: int) -> Process | None:
    try:
        # A program's name may hold spaces and brackets; the fields follow its last bracket.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in "ZX":
        return None
    private = (int(resident) - int(shared)) * _PAGE
    return Process(pid, int(fields[1]), int(fields[17]), private)


def _end_all() -> list[int]:
    """Kill all descendants, stopping them first so that a fork bomb cannot outrun its end.

    Returns the processes that are still there after some seconds.
    """
    deadline = time.monotonic() + _KILL_SECONDS
    while alive := [process.pid for process in descendants()]:
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in alive:
                _send(pid, number)
        _reap(0)
        if time.monotonic() > deadline:
            return alive
        select.select([], [], [], 0.001)
    return []


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
