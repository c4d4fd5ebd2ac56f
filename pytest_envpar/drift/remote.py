"""The scanner inside a container, spoken to over the engine: also where the engine is on another machine."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_envpar.drift.inside import scan
from pytest_envpar.drift.manifest import MAX_ENTRIES, too_many
from pytest_envpar.drift.model import NotCompared
from pytest_envpar.errors import ConnectionLostError, EngineError, EnvparError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_envpar.engine.api import Stream

PYTHONS = (
    "python3",
    "/usr/bin/python3",
    "/usr/local/bin/python3",
    "/opt/venv/bin/python",
    "/opt/conda/bin/python",
)
"""Where a Python is looked for."""

_ROW = 9
_MAX_FRAME = 1 << 26
_IDLE_S = 300.0
"""The longest silence: a large file is read without a word."""
_START_S = 60.0

Row = tuple[str, str, str, str, str, str, str, str, str]
"""A record and the ``inode:ctime`` of its file."""


class NoScannerError(EnvparError):
    """The scanner cannot run in this container; another route has to be taken."""

    code = "no-scanner"


class Scanner:
    """A scanner that runs. Answers one request after the other.

    Args:
        stream: Its standard input and output.
        what: The container, for errors.
        timeout_s: Seconds for all of it.
    """

    def __init__(self, stream: Stream, what: str, *, timeout_s: float = 3600.0) -> None:
        self._stream = stream
        self._what = what
        self._deadline = time.monotonic() + timeout_s
        self._data = bytearray()
        self._errors = bytearray()
        self._frames = 0
        self.mounts: dict[str, str] = {}
        """Where something is mounted, and its file system: known once the first row has come."""
        self.notes: list[NotCompared] = []
        """Known after the last row."""

    def rows(self, *, read: bool, skip: Sequence[str] = (), limit: int = 0) -> Iterator[Row]:
        """The rows of the whole file system, in tree order.

        Args:
            read: Whether files are read; if not, their digests are empty.
            skip: Paths that are left out with everything below them.
            limit: How many entries are too many; 0 for no limit.

        Raises:
            NoScannerError: It did not start.
            EngineError: It failed later on.
        """
        self.ask({"read": read, "skip": list(skip), "limit": limit})
        return self._rows()

    def ask(self, request: dict[str, object]) -> None:
        """Send a request; the answer has to be read before the next one."""
        try:
            self._stream.write(json.dumps(request).encode("ascii") + b"\n")
        except ConnectionLostError:
            pass  # what it has said until then tells why

    def digests(self, paths: Sequence[str]) -> dict[str, str]:
        """Digests of single files; one that cannot be read is missing and is in :attr:`notes`."""
        self.ask({"digests": list(paths)})
        found: dict[str, str] = {}
        for letter, fields in self._frames_until_end():
            if letter != b"D" or len(fields) % 3:
                raise self._broken()
            for path, digest, reason in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
                if digest:
                    found[path] = digest
                else:
                    self.notes.append(NotCompared(path, reason[:200]))
        return found

    def _rows(self) -> Iterator[Row]:
        for letter, fields in self._frames_until_end():
            if letter == b"R":
                if len(fields) % _ROW:
                    raise self._broken()
                columns = [fields[at::_ROW] for at in range(_ROW)]
                yield from zip(*columns, strict=True)
            elif letter == b"M":
                self.mounts |= dict(zip(fields[::2], fields[1::2], strict=False))
            elif letter == b"N":
                pairs = zip(fields[::2], fields[1::2], strict=False)
                self.notes += [NotCompared(path, reason[:200]) for path, reason in pairs]

    def _frames_until_end(self) -> Iterator[tuple[bytes, list[str]]]:
        while True:
            header = self._take(5)
            size = struct.unpack(">I", header[1:])[0]
            if size > _MAX_FRAME or header[:1] not in (b"R", b"M", b"N", b"E", b"D", b"X"):
                raise self._broken()
            fields = self._take(size).decode("utf-8", "surrogateescape").split("\0")
            if fields.pop():
                raise self._broken()
            self._frames += 1
            if header[:1] == b"E":
                return
            if header[:1] == b"X" and fields[:1] == ["rights"]:
                raise NoScannerError(f"{self._what}: {' '.join(fields[1:])[:300]}")
            if header[:1] == b"X" and fields[:1] == ["LimitError"]:
                raise too_many(MAX_ENTRIES)
            if header[:1] == b"X":
                raise EngineError(f"{self._what}: scanning failed: {' '.join(fields)[:300]}")
            yield header[:1], fields

    def _take(self, size: int) -> bytes:
        while len(self._data) < size:
            wait = min(_IDLE_S if self._frames else _START_S, self._deadline - time.monotonic())
            piece = self._stream.read(max(0.0, wait))
            if piece is None:
                raise EngineError(f"{self._what}: scanning it took too long")
            kind, data = piece
            if kind == 0:
                said = bytes(self._errors + self._data).decode("utf-8", "replace").strip().splitlines()
                if not self._frames:
                    raise NoScannerError(
                        f"{self._what}: no Python runs there" + (f" ({said[-1][:200]})" if said else "")
                    )
                raise EngineError(f"{self._what}: the scanner ended early", detail=tuple(said[-5:]))
            if kind == 1:
                self._data += data
            elif len(self._errors) < 1 << 16:
                self._errors += data
        taken = bytes(self._data[:size])
        del self._data[:size]
        return taken

    def _broken(self) -> EnvparError:
        if not self._frames:
            said = bytes(self._data[:300]).decode("utf-8", "replace")
            return NoScannerError(f"{self._what}: no Python runs there ({said.strip()[:200]!r})")
        return EngineError(f"{self._what}: the scanner's answer is broken")


def arguments() -> tuple[str, ...]:
    """The scanner as arguments of a Python: isolated, without the image's own site packages, names as UTF-8."""
    return ("-I", "-S", "-B", "-X", "utf8", "-c", Path(scan.__file__).read_text(encoding="utf-8"))
