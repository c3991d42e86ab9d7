"""One readable progress line with the time that is left."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import TextIO

_BAR = 20


def duration(seconds: float) -> str:
    """Return seconds as `m:ss` or `h:mm:ss`."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, last = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{last:02}" if hours else f"{minutes}:{last:02}"


class Progress:
    """Counts steps `first … total - 1`; on a terminal one line is rewritten, elsewhere appended.

    Appended lines come at most every `interval` seconds, and always for the first and last step.
    The work ends after `max_seconds` from now, if given, whatever is left of it.
    """

    def __init__(
        self,
        total: int,
        title: str,
        first: int = 0,
        *,
        max_seconds: float | None = None,
        stream: TextIO | None = None,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self.title = title
        self.first = first
        self._max_seconds = math.inf if max_seconds is None else max_seconds
        self._stream = stream if stream is not None else sys.stderr
        self._interval = interval
        self._clock = clock
        self._start = clock()
        self._shown_at: float | None = None
        self._line = ""
        self._pending = False

    def update(self, step: int, **values: float | str) -> None:
        """Report that `step` (0-based) is done, with a few values worth watching."""
        now = self._clock()
        self._line = self._text(step + 1, now, values)
        self._pending = True
        if self._stream.isatty():
            self._stream.write(f"\r\x1b[2K{self._line}")
            self._stream.flush()
            self._shown_at = now
            return
        due = self._shown_at is None or now - self._shown_at >= self._interval
        if due or step + 1 >= self.total:
            self._show(now)

    def close(self) -> None:
        """End the line; a last update that the rate limit held back is shown."""
        if not self._pending:
            return
        if self._stream.isatty():
            self._stream.write("\n")
            self._stream.flush()
            self._pending = False
        else:
            self._show(self._clock())

    def _show(self, now: float) -> None:
        self._stream.write(self._line + "\n")
        self._stream.flush()
        self._shown_at = now
        self._pending = False

    def _text(self, done: int, now: float, values: dict[str, float | str]) -> str:
        share = min(1.0, done / self.total) if self.total > 0 else 1.0
        full = int(share * _BAR)
        here = done - self.first
        spent = now - self._start
        pace = spent / here if here > 0 else math.nan
        seconds = min(pace * max(0, self.total - done), self._max_seconds - spent)
        left = "?" if math.isnan(seconds) else duration(seconds)
        parts = [
            f"{self.title} {done}/{self.total}",
            "━" * full + "─" * (_BAR - full),
            f"{share:4.0%}",
            f"{duration(spent)} spent, {left} left",
        ]
        for key, value in values.items():
            parts.append(f"{key} {value}" if isinstance(value, str) else f"{key} {value:.4g}")
        return "  ".join(parts)
