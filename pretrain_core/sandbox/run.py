"""Run one untrusted program in a sandbox and say how it ended."""

import contextlib
import logging
import os
import re
import selectors
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import IO

from pretrain_core.sandbox.launch import INTERPRETER, Launch, python_command
from pretrain_core.sandbox.limits import (
    Ending,
    Isolation,
    Limits,
    Outcome,
    Part,
    SandboxUnavailable,
)

log = logging.getLogger(__name__)

_GRACE_SECONDS = 10.0
_CHUNK = 65536
_SELF_TEST = Limits(wall_seconds=30, memory_mib=256)
_PROBING = threading.Lock()

# What a program says when a limit stopped it inside, without a signal.
_TELLTALES: tuple[tuple[re.Pattern[str], Ending], ...] = (
    (re.compile(r"^(MemoryError\b|terminate called.*std::bad_alloc)"), "memory"),
    (re.compile(r"^(BlockingIOError: \[Errno 11\]|RuntimeError: can't start new)"), "processes"),
    # Shells at their limit: many write at once, so that only the end of the line is theirs.
    (re.compile(r".*(Cannot fork|fork: Resource temporarily unavailable)$"), "processes"),
)


def run_sandboxed(
    program: str | Sequence[str],
    *,
    stdin: str | bytes = "",
    files: Mapping[str, str | bytes] | None = None,
    limits: Limits | None = None,
    packages: bool = False,
) -> Outcome:
    """Run a Python source (a text) or a command (a sequence) in a sandbox of its own.

    `files` lie in the working folder, which is empty otherwise and vanishes at the end;
    `packages`: Python sees the packages of our environment, not only its standard library. Safe to
    call from many threads. Whatever the program does is told by the outcome; raises
    SandboxUnavailable if there can be no sandbox as demanded, InputError for bad file names.
    """
    limits = limits or Limits()
    isolation = isolation_of(limits)
    files = dict(files or {})
    if isinstance(program, str):
        files["main.py"] = program
        program = python_command(packages)
    given = stdin.encode(errors="surrogateescape") if isinstance(stdin, str) else stdin
    return _run(program, given, files, limits, isolation, packages)


def isolation_of(limits: Limits) -> Isolation:
    """What these limits give on this machine; warns once if that is not everything.

    Raises SandboxUnavailable where full isolation is required and cannot be had.
    """
    if limits.isolation == "off":
        return _open("namespaces are switched off by the setting `isolation`")
    with _PROBING:
        found = _kernel_isolation()
    if limits.isolation == "required" and not found.full:
        raise SandboxUnavailable(
            f"full isolation is required, but not to be had here: {found.reason} "
            f"(open: {', '.join(found.missing)}). Allow unprivileged user namespaces (Linux 5.12 "
            "or newer; in a container: a seccomp profile that allows unshare), or set "
            "isolation=preferred"
        )
    return found


@lru_cache(maxsize=1)
def _kernel_isolation() -> Isolation:
    """Try namespaces once per process."""
    command = [INTERPRETER, "-I", "-S", "-c", ""]
    try:
        with Launch(command, {}, _SELF_TEST, namespaces=True, packages=True) as launch:
            status = launch.status()
    except SandboxUnavailable as error:
        found = _open(str(error))
    else:
        if status.get("exit") == 0 and not status["missing"]:
            return Isolation()
        if status.get("exit") == 0:
            found = Isolation(("memory_total",), "the kernel refuses a /proc of its own")
        else:
            found = _open(f"a trial run in namespaces failed: {status}")
    log.warning(
        "sandbox: programs are not fully isolated here (open: %s): %s",
        ", ".join(found.missing),
        found.reason,
    )
    return found


def _open(reason: str) -> Isolation:
    """What limits and a user of its own (where we are root) leave open."""
    missing: tuple[Part, ...] = ("files", "network", "processes", "ipc", "disk")
    return Isolation(missing if os.geteuid() == 0 else (*missing, "process_limit"), reason)


def _run(
    command: Sequence[str],
    given: bytes,
    files: Mapping[str, str | bytes],
    limits: Limits,
    isolation: Isolation,
    packages: bool,
) -> Outcome:
    started = time.monotonic()
    namespaces = "files" not in isolation.missing
    with Launch(command, files, limits, namespaces=namespaces, packages=packages) as launch:
        streams = _Streams(launch, given, limits.output_bytes)
        in_time = streams.pump(started + limits.wall_seconds + _GRACE_SECONDS)
        if not in_time:
            launch.process.kill()
        status = launch.status()
    seconds = time.monotonic() - started
    verdict, reason = _judge(status, streams, limits)
    cut = any(len(raw) > limits.output_bytes for raw in (streams.stdout, streams.stderr))
    return Outcome(
        verdict,
        status.get("exit"),
        _text(streams.stdout, limits.output_bytes),
        _text(streams.stderr, limits.output_bytes),
        seconds,
        isolation,
        reason,
        cut,
    )


class _Streams:
    """Feeds stdin and collects output until the sandbox ends; ends it when the output floods."""

    def __init__(self, launch: Launch, given: bytes, limit: int) -> None:
        self.stdout, self.stderr = bytearray(), bytearray()
        self.flooded = False
        self._launch, self._given, self._limit = launch, memoryview(given), limit

    def pump(self, deadline: float) -> bool:
        """Whether the sandbox ended before the deadline (monotonic seconds)."""
        process = self._launch.process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with selectors.DefaultSelector() as selector:
            for stream in (process.stdin, process.stdout, process.stderr):
                os.set_blocking(stream.fileno(), False)
            selector.register(self._launch.status_descriptor, selectors.EVENT_READ)
            selector.register(process.stdin, selectors.EVENT_WRITE)
            selector.register(process.stdout, selectors.EVENT_READ, self.stdout)
            selector.register(process.stderr, selectors.EVENT_READ, self.stderr)
            while (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    if key.fd == self._launch.status_descriptor:
                        self._drain(process.stdout, self.stdout)
                        self._drain(process.stderr, self.stderr)
                        return True
                    if key.fileobj is process.stdin:
                        if self._feed(process.stdin):
                            selector.unregister(process.stdin)
                            process.stdin.close()
                    elif not self._take(key.fd, key.data):
                        selector.unregister(key.fileobj)
        return False

    def _feed(self, stdin: IO[bytes]) -> bool:
        try:
            self._given = self._given[os.write(stdin.fileno(), self._given[:_CHUNK]) :]
        except BrokenPipeError:
            return True
        return not self._given

    def _take(self, descriptor: int, into: bytearray) -> bool:
        part = os.read(descriptor, _CHUNK)
        if len(into) <= self._limit:
            into += part
        if len(into) > self._limit and not self.flooded:
            self.flooded = True
            self._launch.end()
        return bool(part)

    def _drain(self, stream: IO[bytes], into: bytearray) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._take(stream.fileno(), into):
                pass


def _judge(status: dict[str, object], streams: _Streams, limits: Limits) -> tuple[Ending, str]:
    if streams.flooded:
        return "output", f"wrote more than {limits.output_bytes} bytes"
    if not status:
        return "signal", "killed the supervisor of its sandbox"
    by_cause: dict[object, tuple[Ending, str]] = {
        "wall": ("timeout", f"ran longer than {limits.wall_seconds:g} s"),
        "cpu": ("timeout", f"used more than {limits.cpu_seconds} s of CPU"),
        "memory": ("memory", f"took more than {limits.memory_mib} MiB"),
        "processes": ("processes", f"had more than {limits.processes} processes and threads"),
    }
    if status["cause"] in by_cause:
        return by_cause[status["cause"]]
    if status["cause"]:
        return "signal", str(status["cause"])
    if status["signal"] == signal.SIGXCPU:
        # The kernel was quicker than the supervisor.
        return by_cause["cpu"]
    if isinstance(number := status["signal"], int):
        return "signal", f"ended by {signal.Signals(number).name}"
    if status["exit"] == 0:
        return "ok", ""
    said = streams.stderr.decode(errors="replace").strip().splitlines() or [""]
    for pattern, verdict in _TELLTALES:
        if pattern.match(said[-1]):
            return verdict, by_cause[verdict][1]
    return "failed", f"exit status {status['exit']}" + (f": {said[-1][:200]}" if said[-1] else "")


def _text(raw: bytearray, limit: int) -> str:
    text = raw[:limit].decode(errors="replace")
    return text + f"\n… [cut after {limit} bytes]" if len(raw) > limit else text
