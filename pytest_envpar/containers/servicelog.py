"""What a service has said, with the time of each line, bounded."""

from __future__ import annotations

import collections
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_envpar.engine.values.containers import LogLine

_MAX_BYTES = 1 << 19
_LINE_COST = 64
SHOWN_LINES = 100


class ServiceLog:
    """The last lines of one service. Any thread may add and ask."""

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._lines: collections.deque[LogLine] = collections.deque()
        self._size = 0
        self._max = max_bytes
        self._dropped_until = 0.0
        self._changed = threading.Condition()

    def add(self, line: LogLine) -> None:
        """Keep a line, and forget the oldest ones for it where there is no room."""
        with self._changed:
            self._lines.append(line)
            self._size += len(line.text) + _LINE_COST
            while self._size > self._max and len(self._lines) > 1:
                oldest = self._lines.popleft()
                self._size -= len(oldest.text) + _LINE_COST
                self._dropped_until = max(self._dropped_until, oldest.latest)
            self._changed.notify_all()

    def between(
        self, start: float, stop: float, *, limit: int = SHOWN_LINES, settle_s: float = 0.0
    ) -> list[str]:
        """The last ``limit`` lines that may be of a span of time (seconds since 1970 by the engine's clock).

        Args:
            settle_s: How long to wait for lines that are still on their way; a later one shows that there are none.
        """
        with self._changed:
            if settle_s > 0:
                self._changed.wait_for(lambda: bool(self._lines) and self._lines[-1].time > stop, settle_s)
            lines = [line for line in self._lines if start <= line.latest and line.time <= stop]
            lost = self._dropped_until >= start
        shown = [line.text.decode("utf-8", "replace") for line in lines[-limit:]]
        hidden = len(lines) - len(shown)
        if hidden or lost:
            shown.insert(0, f"... {hidden} earlier lines" if not lost else "... earlier lines")
        return shown
