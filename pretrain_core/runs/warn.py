"""Warnings that are seen: boxed, actionable, and once per process."""

from __future__ import annotations

import logging
import threading

logger = logging.getLogger(__name__)

_given: dict[str, str] = {}
_lock = threading.Lock()


def warn_once(key: str, text: str) -> bool:
    """Show a boxed warning on stderr unless one of this key was shown; returns whether it was.

    It is logged too, so that the run's `log.txt` and its report keep it.
    """
    with _lock:
        if key in _given:
            return False
        _given[key] = text
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    box = Panel(Text(text), title="warning", title_align="left", border_style="yellow")
    Console(stderr=True).print(box)
    logger.warning(text, extra={"boxed": True})
    return True


def not_boxed(record: logging.LogRecord) -> bool:
    """A logging filter for terminal handlers: what was shown in a box is not shown again."""
    return not getattr(record, "boxed", False)
