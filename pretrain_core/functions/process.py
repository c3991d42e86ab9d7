"""A function of the user's, called in a process of its own: it may hang, die, or print."""

import json
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import Empty, Queue
from typing import Any, NoReturn

from pydantic import Field

from pretrain_core.cache import InputPath
from pretrain_core.errors import InputError, RunFailed
from pretrain_core.settings import Settings

_CHILD = Path(__file__).parent / "child.py"
_LAST_WORDS = 4


class FunctionSettings(Settings):
    """Which function, and how long a call may take."""

    file: InputPath = Field(description="Python file; its folder can be imported from")
    name: str = Field(description="of the function in it")
    seconds: float = Field(60.0, gt=0, description="for one call, with all replies of an iteration")
    start_seconds: float = Field(120.0, gt=0, description="for the file's imports")


class FunctionFailed(RunFailed):
    """A call without an answer; names the file and what the function raised, and where."""


class FunctionProcess:
    """Keyword arguments in, a list out, both JSON-able; with your packages, without a sandbox.

    A call that takes too long ends the process, and the next call starts another. Safe to call
    from many threads, which then wait for each other. Raises InputError for a file or function
    that cannot be loaded.
    """

    def __init__(self, settings: FunctionSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        if not settings.file.is_file():
            raise InputError(f"{settings.file}: no such file")
        try:
            self._start()
        except FunctionFailed as error:
            raise InputError(str(error)) from error

    def __call__(self, **arguments: Any) -> list[Any]:
        """What the function returns; raises FunctionFailed."""
        with self._lock:
            if self._process is None:
                self._start()
            assert self._process is not None
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps(arguments) + "\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                self._fail("ended between two calls")
            answer: list[Any] = self._said(self.settings.seconds)["answer"]
            return answer

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_CHILD), str(self.settings.file), self.settings.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._lines: Queue[str] = Queue()
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._readers = [
            _reading(self._process.stdout, self._lines.put, at_end=lambda: self._lines.put("")),
            _reading(self._process.stderr, self._heard),
        ]
        self._said(self.settings.start_seconds)

    def _heard(self, line: str) -> None:
        # Traces underline what failed; that says nothing in one line.
        if line.strip(" ~^\n"):
            self._last_words.append(line.strip())

    def _said(self, seconds: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=seconds)
        except Empty:
            self._fail(f"took longer than {seconds:g} s")
        if not line:
            self._readers[1].join(timeout=1)
            self._fail("ended: " + " ".join(self._last_words))
        said: dict[str, Any] = json.loads(line)
        return said

    def _fail(self, how: str) -> NoReturn:
        self._stop()
        raise FunctionFailed(f"{self.settings.file}: {self.settings.name} {how}")

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for reader in self._readers:
                reader.join()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


def _reading(
    stream: Iterable[str] | None,
    each: Callable[[str], None],
    at_end: Callable[[], None] = lambda: None,
) -> threading.Thread:
    """A thread that takes in all lines of a stream."""

    def read() -> None:
        for line in stream or ():
            each(line)
        at_end()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread
