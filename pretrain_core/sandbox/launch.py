"""Starts the launcher: a fresh single-threaded process, since the caller may have threads."""

import base64
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from pretrain_core.errors import InputError
from pretrain_core.sandbox.inside.supervisor import Task
from pretrain_core.sandbox.limits import Limits, SandboxUnavailable

INTERPRETER = os.path.realpath(sys.executable)
"""Python without the packages of our environment; `sys.executable` has them."""

ALLOWED_VARIABLES = ("LANG", "LC_ALL", "TZ")
"""All that passes from our environment into a sandbox."""

_ENVIRONMENT = {
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
}
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
_BOOT = "import sys; sys.path.append(sys.argv.pop()); from inside.launcher import main; main()"


class Launch:
    """One sandbox, running from `__enter__` on; leaving ends everything in it.

    The streams of `process` are the program's own, unbuffered. Raises InputError for file names
    that leave the working folder.
    """

    def __init__(
        self,
        command: Sequence[str],
        files: Mapping[str, str | bytes],
        limits: Limits,
        *,
        namespaces: bool,
        packages: bool = False,
        endless: bool = False,
    ) -> None:
        self._stage = tempfile.TemporaryDirectory(
            prefix="cool-rlhf-sandbox-", ignore_cleanup_errors=True
        )
        environment = dict(_ENVIRONMENT)
        environment |= {name: os.environ[name] for name in ALLOWED_VARIABLES if name in os.environ}
        if packages and (folders := package_folders()):
            environment["PYTHONPATH"] = os.pathsep.join(folders)
        if not namespaces:
            environment |= {"HOME": self._stage.name, "TMPDIR": self._stage.name}
        self._task: Task = {
            "command": list(command),
            "environment": environment,
            "files": {_checked(name): _encoded(content) for name, content in files.items()},
            "wall_seconds": None if endless else limits.wall_seconds,
            "cpu_seconds": None if endless else limits.cpu_seconds,
            "memory": limits.memory_mib * 2**20,
            "processes": limits.processes,
            "file_bytes": limits.file_bytes,
            "namespaces": namespaces,
            "stage": self._stage.name,
            "readable": readable_paths(packages),
        }
        self._status = self._lifeline = -1
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> "Launch":
        self._status, status = os.pipe()
        lifeline, self._lifeline = os.pipe()
        with tempfile.TemporaryFile() as described:
            described.write(json.dumps(self._task).encode())
            described.seek(0)
            theirs = (described.fileno(), status, lifeline)
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _BOOT, *map(str, theirs), str(_HERE)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    env={},
                    cwd="/",
                    pass_fds=theirs,
                    start_new_session=True,
                )
            except OSError as error:
                self._close()
                raise SandboxUnavailable(f"the sandbox cannot start: {error}") from error
            finally:
                os.close(status)
                os.close(lifeline)
        return self

    @property
    def status_descriptor(self) -> int:
        """Readable when the sandbox has ended: then `status` does not block."""
        return self._status

    def end(self) -> None:
        """Have everything in the sandbox killed; returns at once."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def status(self) -> dict[str, Any]:
        """What the launcher says about the end, empty if it was killed itself; waits for it.

        Raises SandboxUnavailable if the sandbox could not be set up.
        """
        said = b""
        while part := os.read(self._status, 65536):
            said += part
        status: dict[str, Any] = json.loads(said) if said else {}
        if "error" in status:
            raise SandboxUnavailable(f"the sandbox cannot start: {status['error']}")
        return status

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self) -> None:
        self.end()
        os.close(self._status)
        self._stage.cleanup()


_HERE = Path(__file__).resolve().parent


def python_command(packages: bool) -> list[str]:
    """The command that runs `main.py`; isolated from the user's own packages, not from ours."""
    return [sys.executable if packages else INTERPRETER, "-s", "main.py"]


def readable_paths(packages: bool) -> list[str]:
    """What a program sees of the machine, read-only: system libraries and one Python."""
    wanted = [*_SYSTEM, sys.base_prefix]
    if packages:
        wanted += [sys.prefix, *package_folders()]
    found: list[str] = []
    for path in sorted(path for path in wanted if path != "/" and os.path.exists(path)):
        if not any(Path(path).is_relative_to(parent) for parent in found):
            found.append(path)
    return found


def package_folders() -> list[str]:
    """Folders of installed packages outside our environment, as cluster jobs may have them."""
    return [
        path
        for path in sys.path
        if Path(path).name in ("site-packages", "dist-packages")
        and not Path(path).is_relative_to(sys.prefix)
    ]


def _checked(name: str) -> str:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise InputError(f"file name {name!r}: give a relative path inside the working folder")
    return name


def _encoded(content: str | bytes) -> str:
    raw = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    return base64.b64encode(raw).decode()
