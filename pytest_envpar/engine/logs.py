"""The log of a container, line by line."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from pytest_envpar.engine.parse.shapes import unix_time
from pytest_envpar.engine.stream import MAX_LINE, Demultiplexer
from pytest_envpar.engine.values.containers import LogLine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_STAMP = re.compile(rb"\A\d{4}-\d\d-\d\dT\S+ ")


def log_lines(chunks: Iterable[bytes]) -> Iterator[LogLine]:
    """The lines of a multiplexed log with timestamps.

    A frame is what was written at once, up to 16 KiB, and each begins with its time, also where it goes on with a line.
    """
    pieces = Demultiplexer()
    rest: dict[int, bytes] = {1: b"", 2: b""}
    for chunk in chunks:
        for stream, data in pieces.feed(chunk):
            more = _STAMP.sub(b"", data, count=1) if rest[stream] else data
            *lines, rest[stream] = (rest[stream] + more).split(b"\n")
            rest[stream] = rest[stream][:MAX_LINE]
            yield from map(_log_line, lines)
    yield from (_log_line(line) for line in rest.values() if line)


def _log_line(line: bytes) -> LogLine:
    """``2026-01-31T12:00:00.123456789Z text``; Podman writes the offset of its own time zone instead of ``Z``."""
    stamp, _, text = line.partition(b" ")
    told = unix_time(stamp.decode("ascii", "replace"))
    latest = told
    if b"." not in stamp:
        # Podman tells whole seconds. It has been written before it is heard here, if the clock is the same.
        heard = time.time()
        latest = heard if told <= heard < told + 1 else told + 1
    return LogLine(told, text.rstrip(b"\r"), latest)
