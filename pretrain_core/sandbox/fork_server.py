"""A library that must not run in our process: imported once in a sandbox, forked per request."""

import json
import os
import queue
import select
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pretrain_core.sandbox.launch import Launch, python_command
from pretrain_core.sandbox.limits import Limits, SandboxUnavailable
from pretrain_core.sandbox.run import isolation_of

_START_SECONDS = 120.0
_GRACE_SECONDS = 10.0
_CHUNK = 65536


@dataclass(frozen=True)
class Answer:
    """What the handler returned, or the problem that kept it from returning."""

    value: Any = None
    problem: Literal["", "timeout", "memory", "failed"] = ""
    reason: str = ""


class ForkServer:
    """Calls `handle(argument)` of a handler file, each call in a fresh fork inside one sandbox.

    The handler is a file that imports only installed packages. Starts at the first call, and again
    after a call that broke it; safe to call from many threads, which then wait for each other.
    Wall and CPU limits do not apply to the server; each call has its own seconds.
    """

    def __init__(self, handler: Path, limits: Limits | None = None) -> None:
        self._handler, self._limits = handler, limits or Limits()
        self._lock = threading.Lock()
        self._launch: Launch | None = None
        self._said = b""

    def call(self, argument: Any, seconds: float) -> Answer:
        """Answer to a JSON-able argument; raises SandboxUnavailable if no server can start."""
        with self._lock:
            launch = self._launch or self._start()
            request = json.dumps({"argument": argument, "seconds": seconds}).encode() + b"\n"
            line = None
            if _send(launch, request, time.monotonic() + _GRACE_SECONDS):
                line = self._line(launch, time.monotonic() + seconds + _GRACE_SECONDS)
            return Answer(**json.loads(line)) if line is not None else self._broken()

    def close(self) -> None:
        """End the server; a later call starts another."""
        with self._lock:
            self._stop()

    def _start(self) -> Launch:
        files = {"main.py": _server_source(), "handler.py": self._handler.read_text()}
        namespaces = "files" not in isolation_of(self._limits).missing
        launch = Launch(
            python_command(packages=True),
            files,
            self._limits,
            namespaces=namespaces,
            packages=True,
            endless=True,
        ).__enter__()
        self._launch, self._said = launch, b""
        assert launch.process.stdin is not None
        assert launch.process.stdout is not None
        for stream in (launch.process.stdin, launch.process.stdout):
            os.set_blocking(stream.fileno(), False)
        if self._line(launch, time.monotonic() + _START_SECONDS) is None:
            problem = _last_words(launch)
            self._stop()
            raise SandboxUnavailable(f"{self._handler.name} does not start: {problem}")
        return launch

    def _line(self, launch: Launch, deadline: float) -> bytes | None:
        """The next line of the server; None if it ended or says nothing until the deadline."""
        assert launch.process.stdout is not None
        descriptor = launch.process.stdout.fileno()
        while b"\n" not in self._said:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                return None
            part = os.read(descriptor, _CHUNK)
            if not part:
                return None
            self._said += part
        line, _, self._said = self._said.partition(b"\n")
        return line

    def _broken(self) -> Answer:
        assert self._launch is not None
        self._launch.end()
        cause = self._launch.status().get("cause", "")
        self._stop()
        if cause == "memory":
            return Answer(problem="memory", reason=f"took more than {self._limits.memory_mib} MiB")
        return Answer(problem="failed", reason="broke the server that should answer")

    def _stop(self) -> None:
        if self._launch is not None:
            launch, self._launch = self._launch, None
            launch.__exit__(None, None, None)


class ForkServerPool:
    """Up to `size` fork servers of one handler, each started when it is first needed."""

    def __init__(self, handler: Path, size: int, limits: Limits | None = None) -> None:
        self._servers = [ForkServer(handler, limits) for _ in range(size)]
        # Last in, first out: one caller at a time keeps one server busy and starts no other.
        self._free: queue.LifoQueue[ForkServer] = queue.LifoQueue()
        for server in self._servers:
            self._free.put(server)

    def call(self, argument: Any, seconds: float) -> Answer:
        """As `ForkServer.call`, on the next free server."""
        server = self._free.get()
        try:
            return server.call(argument, seconds)
        finally:
            self._free.put(server)

    def close(self) -> None:
        """End all servers."""
        for server in self._servers:
            server.close()


@cache
def _server_source() -> str:
    return (Path(__file__).parent / "inside" / "server.py").read_text()


def _send(launch: Launch, content: bytes, deadline: float) -> bool:
    assert launch.process.stdin is not None
    descriptor = launch.process.stdin.fileno()
    while content:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([], [descriptor], [], left)[1]:
            return False
        try:
            content = content[os.write(descriptor, content) :]
        except BrokenPipeError:
            return False
    return True


def _last_words(launch: Launch) -> str:
    assert launch.process.stderr is not None
    launch.end()
    said = b""
    with suppress(BlockingIOError):
        said = launch.process.stderr.read() or b""
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"no word from it ({launch.status()})"
