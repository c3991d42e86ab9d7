"""The run's `log.txt`: one logging handler, attached while the run is being written."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from pretrain_core.runs.warn import not_boxed

LAYERS = ("pretrain_core", "reward", "actors", "cool_rlhf")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _OneLine(logging.Formatter):
    """Continued lines are indented, so that a record starts wherever a line starts."""

    def __init__(self) -> None:
        super().__init__(_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", "\n    ")


def attach(path: Path) -> logging.Handler:
    """Send our INFO records and everybody's warnings to a file, until `detach`."""
    root = logging.getLogger()
    if not root.handlers:
        # Any handler silences Python's last-resort one: warnings must still reach the terminal.
        terminal = logging.StreamHandler(sys.stderr)
        terminal.setLevel(logging.WARNING)
        terminal.addFilter(not_boxed)
        terminal.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        root.addHandler(terminal)
    for name in LAYERS:
        layer = logging.getLogger(name)
        if layer.level == logging.NOTSET:
            layer.setLevel(logging.INFO)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_OneLine())
    root.addHandler(handler)
    return handler


def detach(handler: logging.Handler) -> None:
    """Stop writing to the file and close it."""
    logging.getLogger().removeHandler(handler)
    handler.close()


def warnings_in(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (logger, message) of each warning or error in a `log.txt`, continuation joined."""
    if not path.exists():
        return
    source, message = "", ""
    for line in [*path.read_text(encoding="utf-8", errors="replace").splitlines(), "end"]:
        if line.startswith("    ") and message:
            message += "\n" + line[4:]
            continue
        if message:
            yield source, message
        head = line.split(" ", 2)
        message = ""
        if len(head) == 3 and head[1] in ("WARNING", "ERROR", "CRITICAL"):
            source, _, message = head[2].partition(": ")
