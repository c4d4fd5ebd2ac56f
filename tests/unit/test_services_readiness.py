"""What a probe inside says of services, heard on this side."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from pytest_envpar.containers import readiness
from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    from pytest_envpar.engine.api import Engine


class Scripted:
    """An engine whose exec says what a test wants."""

    def __init__(self, *pieces: tuple[int, bytes]) -> None:
        self.pieces = [*pieces, (0, b"")]
        self.closed = False

    def exec_stream(self, container: str, command: list[str]) -> Scripted:
        assert (container, command[0]) == ("c", "python3")
        return self

    def read(self, timeout_s: float | None = None) -> tuple[int, bytes]:
        assert timeout_s == 1.0
        return self.pieces.pop(0)

    def close(self) -> None:
        self.closed = True


def watch(*pieces: tuple[int, bytes]) -> list[tuple[str, str | None]]:
    engine = Scripted(*pieces)
    told: list[tuple[str, str | None]] = []
    vantage = readiness.Vantage(cast("Engine", engine), "c", "python3")
    try:
        readiness.watch(vantage, [readiness.NetworkCheck("db", 1)], lambda *each: told.append(each), 1.0)
    finally:
        assert engine.closed
    return told


def test_each_line_is_told_and_the_last_ends_it() -> None:
    pieces = [(1, b'["db", "connection'), (1, b' refused"]\n["db", null]\n'), (1, b'["db", "never read"]\n')]
    assert watch(*pieces) == [("db", "connection refused"), ("db", None)]


@pytest.mark.parametrize(
    "words", [b"OCI runtime exec failed: no such process", b"7", b"[]", b'{"a": 1}', b"\xff"]
)
def test_an_engine_that_writes_its_own_words(words: bytes) -> None:
    assert watch((1, words + b"\r\n"), (1, b'["db", null]\n')) == [("db", None)]
    with pytest.raises(EngineError, match="stopped asking") as caught:
        watch((1, words + b"\r\n"))
    assert caught.value.detail == (words.decode(errors="replace"),)
