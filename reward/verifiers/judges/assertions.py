"""Runs a program's tests, each in a fork of its own; the main program of the code verifier.

Reads {"program", "setup", "tests", "seconds"} from stdin, writes one list of problems, "" for a
test that passed. Only a test that was reached and held reports success: an early exit is none.
"""

import json
import os
import select
import signal
import sys
import time
from types import TracebackType
from typing import Any

_PASSED = b"\x00passed"


def main() -> None:
    """Run all tests and tell how each ended."""
    task = json.load(sys.stdin)
    problems = [_run(task, test) for test in task["tests"]]
    sys.stdout.write(json.dumps(problems))


def _run(task: dict[str, Any], test: str) -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.close(reader)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        _report_errors(writer)
        # Not __main__: the tests call the program's functions, its script part is not wanted.
        names: dict[str, Any] = {"__name__": "program"}
        for title, source in (("program", task["program"]), ("tests", task["setup"])):
            exec(compile(source, title, "exec"), names)
        exec(compile(test, "test", "exec"), names)
        os.write(writer, _PASSED)
        os._exit(0)
    os.close(writer)
    said = _read(reader, time.monotonic() + task["seconds"])
    os.close(reader)
    for kill in (os.killpg, os.kill):
        try:
            kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue
    _, status = os.waitpid(child, 0)
    if said is None:
        return f"took longer than {task['seconds']:g} s"
    if said == _PASSED:
        return ""
    code = os.waitstatus_to_exitcode(status)
    return said.decode(errors="replace") or f"ended before its test (status {code})"


def _report_errors(writer: int) -> None:
    write, leave = os.write, os._exit

    def report(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
        write(writer, f"{kind.__name__}: {error}".encode(errors="replace")[:300])
        leave(1)

    sys.excepthook = report


def _read(reader: int, deadline: float) -> bytes | None:
    said = b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([reader], [], [], left)[0]:
            part = os.read(reader, 4096)
            if not part or len(said) > 65536:
                return said
            said += part
    return None


if __name__ == "__main__":
    main()
