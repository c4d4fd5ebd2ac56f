"""What of a service's log is told of a span of time."""

from __future__ import annotations

from pytest_envpar.containers.servicelog import ServiceLog
from pytest_envpar.engine.values.containers import LogLine


def log(*lines: tuple[float, float], max_bytes: int = 10_000) -> ServiceLog:
    """A log whose lines have these times, the earliest and the latest, and are numbered."""
    made = ServiceLog(max_bytes)
    for number, (time, latest) in enumerate(lines):
        made.add(LogLine(time, b"line %d" % number, latest))
    return made


def test_lines_of_the_span_only() -> None:
    assert log((1, 1), (2, 2), (3, 3), (4, 4)).between(2, 3) == ["line 1", "line 2"]


def test_a_line_that_may_be_of_the_span_is_told() -> None:
    # Told as whole seconds, and heard at the second number.
    heard = log((10, 10.3), (10, 10.8), (11, 11.1), (12, 12.2))
    assert heard.between(10.5, 11.5) == ["line 1", "line 2"]


def test_what_had_to_be_dropped_is_said() -> None:
    assert log(*((n, n) for n in range(10)), max_bytes=300).between(0, 20)[0] == "... earlier lines"
    assert log(*((n, n) for n in range(10))).between(1, 20, limit=2) == [
        "... 7 earlier lines",
        "line 8",
        "line 9",
    ]
