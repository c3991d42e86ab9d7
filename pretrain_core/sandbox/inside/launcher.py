"""The first process of a sandbox: single-threaded, so that it may fork and change namespaces."""

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

from . import namespaces
from .supervisor import Task, supervise

FIRST_USER = 1_000_000_000
"""Users from here on exist on no machine that is not part of a very large directory."""


def main() -> None:
    """Run the task read from descriptor `argv[1]`; write its status to `argv[2]`.

    `argv[3]` is the lifeline: when its other end closes, everything here ends.
    """
    described, status, lifeline = (int(number) for number in sys.argv[1:4])
    os.umask(0o022)
    # Before the first fork: no descriptor of ours may reach the program.
    for descriptor in (described, status, lifeline):
        os.set_inheritable(descriptor, False)
    with os.fdopen(described, "rb") as source:
        task: Task = json.load(source)
    try:
        if not task["namespaces"]:
            _tell(status, _without_namespaces(task, lifeline))
            return
        user = namespaces.enter()
    except OSError as error:
        _tell(status, {"error": str(error)})
        return
    first = os.fork()
    if first == 0:
        try:
            namespaces.die_with_parent()
            missing = namespaces.build_root(
                Path(task["stage"]), task["readable"], task["file_bytes"]
            )
            _write_files(task, user)
            _tell(status, supervise(task, lifeline, user, counted=True) | {"missing": missing})
        except OSError as error:
            _tell(status, {"error": str(error)})
        os._exit(0)
    os.waitpid(first, 0)


def _without_namespaces(task: Task, lifeline: int) -> dict[str, Any]:
    namespaces.adopt_orphans()
    os.chdir(task["stage"])
    # Root gives each program a user of its own, whose processes the kernel counts, and who owns
    # nothing on the machine.
    user = FIRST_USER + os.getpid() if os.geteuid() == 0 else None
    if user is not None:
        os.chown(".", user, user)
    _write_files(task, user)
    return supervise(task, lifeline, user, counted=user is not None)


def _write_files(task: Task, user: int | None) -> None:
    for name, content in task["files"].items():
        path = Path.cwd() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))
        for made in (path, *path.relative_to(Path.cwd()).parents):
            if user is not None and str(made) != ".":
                os.chown(made, user, user)


def _tell(status: int, outcome: dict[str, Any]) -> None:
    os.write(status, json.dumps(outcome).encode())
