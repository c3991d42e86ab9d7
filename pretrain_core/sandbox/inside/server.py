"""The main program of a fork server: imports a handler once, then forks for each request.

Lies as `main.py` in a sandbox, beside `handler.py` with its function `handle(argument)`. Requests
and answers are lines of JSON.
"""

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

_CHUNK = 65536


def serve(handle: Callable[[Any], Any]) -> None:
    """Answer requests from stdin until it closes."""
    answers = os.dup(1)
    quiet = os.open(os.devnull, os.O_RDWR)
    # A library's prints and warnings are no answers.
    for stream in (1, 2):
        os.dup2(quiet, stream)
    _say(answers, {"ready": True})
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        _say(answers, _fork(handle, request["argument"], request["seconds"], answers))


def _fork(handle: Callable[[Any], Any], argument: Any, seconds: float, answers: int) -> Any:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.close(reader)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.close(answers)
        _report_errors(writer)
        value = json.dumps({"value": handle(argument)})
        _write(writer, value.encode())
        os._exit(0)
    os.close(writer)
    said, in_time = _read(reader, time.monotonic() + seconds)
    os.close(reader)
    # The group may not exist yet, or no more.
    for kill in (os.killpg, os.kill):
        try:
            kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue
    _, status = os.waitpid(child, 0)
    if not in_time:
        return {"problem": "timeout", "reason": f"took longer than {seconds:g} s"}
    try:
        return json.loads(said)
    except json.JSONDecodeError:
        code = os.waitstatus_to_exitcode(status)
        return {"problem": "failed", "reason": f"ended without an answer ({code})"}


def _report_errors(writer: int) -> None:
    def report(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
        problem = "memory" if issubclass(kind, MemoryError) else "failed"
        reason = f"{kind.__name__}: {error}"[:500]
        _write(writer, json.dumps({"problem": problem, "reason": reason}).encode())
        os._exit(1)

    sys.excepthook = report


def _read(reader: int, deadline: float) -> tuple[bytes, bool]:
    said = b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([reader], [], [], left)[0]:
            part = os.read(reader, _CHUNK)
            if not part:
                return said, True
            said += part
    return said, False


def _say(answers: int, message: Any) -> None:
    _write(answers, json.dumps(message).encode() + b"\n")


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


if __name__ == "__main__":
    from handler import handle  # type: ignore[import-not-found]

    serve(handle)
