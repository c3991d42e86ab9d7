"""Ctrl-C and SIGTERM: finish the step, save, print the exact command that resumes."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, NoReturn

logger = logging.getLogger(__name__)

STOPPED_CODE = 130


class Stopped(SystemExit):
    """Raised after a requested stop: the process exits with code 130 unless someone catches it."""

    def __init__(self, resume_command: str) -> None:
        super().__init__(STOPPED_CODE)
        self.resume_command = resume_command


class StopSignal:
    """Within the `with` block, the first SIGINT or SIGTERM sets `requested`.

    A second one raises KeyboardInterrupt at once. Handlers live in the main thread only (Python's
    rule); elsewhere `requested` can still be set by `request()`.
    """

    def __init__(self, resume_command: str | Sequence[str]) -> None:
        self.resume_command = (
            resume_command if isinstance(resume_command, str) else shlex.join(resume_command)
        )
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def request(self) -> None:
        """Ask the loop to stop after its current step."""
        self.requested = True

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is not threading.main_thread():
            logger.info("not in the main thread: Ctrl-C will not be caught here")
            return self
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that was not installed from Python: it cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # A plain write: buffered streams are not safe to enter from a signal handler.
        os.write(2, b"\nstopping after this step; once more to stop at once without saving\n")

    def announce(self) -> NoReturn:
        """Print the resume command and raise Stopped (exit code 130)."""
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        console.print("[bold]Stopped, and saved. Resume with:[/bold]")
        # Soft-wrapped and unmarked: the line must survive copy and paste.
        console.print(f"  {self.resume_command}", markup=False, soft_wrap=True)
        raise Stopped(self.resume_command)
