"""The duplex stream of a container or an exec, over the socket that the engine handed over.

Output comes in frames: one byte for the stream (1 standard output, 2 standard error), three of nothing, four
for the length (big endian), the data. Input is sent as it is.
https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach
"""

from __future__ import annotations

import collections
import contextlib
import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

from pytest_envpar.engine.translate import GoneError, Where, translate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_envpar.engine.connection import Connection

_RECEIVE = 1 << 18
_HEADER = struct.Struct(">BxxxL")
_STDOUT, _STDERR = 1, 2
MAX_LINE = 1 << 16
"""In bytes: what is kept of a line of a log."""


class SocketStream:
    """An :class:`~pytest_envpar.engine.api.Stream` over a socket.

    One thread may read while another writes; ``close`` may be called from any thread and wakes both.

    Args:
        connection: Taken over whole, with what was already read behind the response's header.
        name: What this is a stream of, for error messages.
        engine: The engine's URL, for error messages.
        raw: A terminal's stream has no frames: all of it is standard output.
    """

    def __init__(self, connection: Connection, name: str, engine: str, *, raw: bool = False) -> None:
        self._socket = connection.sock
        # Not blocking, and waiting by poll(): a read's time limit must not become a write's.
        self._socket.setblocking(False)
        self._name = name
        self._engine = engine
        self._buffer = connection.take_ahead()
        self._at = 0
        self._frame_stream = _STDOUT
        self._frame_left = 0
        self._raw = raw
        self._ended = False
        self._closed = False
        # A TLS socket must not be read and written at the same moment; nothing blocks while it has this.
        self._lock = threading.Lock()

    def read(self, timeout_s: float | None = None) -> tuple[int, bytes] | None:
        """See :meth:`pytest_envpar.engine.api.Stream.read`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            piece = self._take()
            if piece is not None:
                return piece
            if self._ended:
                return 0, b""
            data = self._receive()
            if data is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._wait(select.POLLIN, left)
            elif data:
                self._buffer = self._buffer[self._at :] + data
                self._at = 0
            else:
                self._ended = True

    def write(self, data: bytes) -> None:
        """See :meth:`pytest_envpar.engine.api.Stream.write`."""
        rest = memoryview(data)
        while rest:
            try:
                with self._lock:
                    if self._closed:
                        raise GoneError("the stream is closed")
                    sent = self._socket.send(rest)
            except OSError as cause:
                if not _would_block(cause):
                    raise self._lost(cause) from cause
                self._wait(select.POLLOUT, None)
            except GoneError as cause:
                raise self._lost(cause) from cause
            else:
                rest = rest[sent:]

    def close_write(self) -> None:
        """End standard input; output can still be read. A TLS stream cannot be half closed and ends whole."""
        with self._lock, contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """See :meth:`pytest_envpar.engine.api.Stream.close`."""
        # Before the lock: the shutdown is what wakes a thread that waits in poll().
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._closed = True
            self._socket.close()

    def _lost(self, cause: BaseException) -> BaseException:
        return translate(cause, Where(f"{self._name}: standard input", self._engine))

    def _receive(self) -> bytes | None:
        """What is there: bytes, nothing at the end, ``None`` if one has to wait."""
        try:
            with self._lock:
                return b"" if self._closed else self._socket.recv(_RECEIVE)
        except OSError as cause:
            # A reset is an end as well: the container or the engine went away, which its inspection tells.
            return None if _would_block(cause) else b""

    def _wait(self, event: int, timeout_s: float | None) -> None:
        try:
            descriptor = self._socket.fileno()
            if descriptor < 0:
                return
            poll = select.poll()
            poll.register(descriptor, event)
            # Rounded up, or the last millisecond would be spent spinning.
            poll.poll(None if timeout_s is None else int(timeout_s * 1000) + 1)
        except OSError:
            # Closed meanwhile; the next read or write tells.
            return

    def _take(self) -> tuple[int, bytes] | None:
        """As much output of one stream as is in the buffer; many small frames become one piece."""
        if self._raw:
            data, self._buffer, self._at = self._buffer[self._at :], b"", 0
            return (_STDOUT, data) if data else None
        pieces: list[bytes] = []
        stream = self._frame_stream
        while True:
            if not self._frame_left:
                if len(self._buffer) - self._at < _HEADER.size:
                    break
                kind, size = _HEADER.unpack_from(self._buffer, self._at)
                # 0 (input) and 3 (the engine's own errors) are in the protocol; 0 means the end in ours.
                kind = _STDOUT if kind <= _STDOUT else _STDERR
                if pieces and kind != stream:
                    break
                self._at += _HEADER.size
                self._frame_stream = stream = kind
                self._frame_left = size
                continue
            piece = self._buffer[self._at : self._at + self._frame_left]
            if not piece:
                break
            self._at += len(piece)
            self._frame_left -= len(piece)
            pieces.append(piece)
        if not pieces:
            return None
        return stream, pieces[0] if len(pieces) == 1 else b"".join(pieces)


def demultiplexed(raw: bytes) -> bytes:
    """The data of a complete multiplexed answer, both streams in the order in which they came."""
    return b"".join(data for _, data in Demultiplexer().feed(raw))


def last_lines(chunks: Iterable[bytes], count: int) -> bytes:
    """The last lines of a multiplexed answer that comes in pieces; only they are kept, the first 64 KiB of each."""
    pieces = Demultiplexer()
    kept: collections.deque[bytes] = collections.deque(maxlen=count)
    rest = {_STDOUT: bytearray(), _STDERR: bytearray()}
    for chunk in chunks:
        for stream, data in pieces.feed(chunk):
            line = rest[stream]
            *ends, begun = data.split(b"\n")
            for end in ends:
                line += end[: MAX_LINE - len(line)]
                kept.append(bytes(line) + b"\n")
                line.clear()
            line += begun[: MAX_LINE - len(line)]
    kept.extend(bytes(line) for line in rest.values() if line)
    return b"".join(kept)


class Demultiplexer:
    """Takes a multiplexed answer in pieces. Mutable: what is cut off waits for the next piece."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The complete frames: 1 (standard output) or 2 (standard error), and what was written."""
        self._buffer += data
        frames = []
        at = 0
        while at + _HEADER.size <= len(self._buffer):
            kind, size = _HEADER.unpack_from(self._buffer, at)
            end = at + _HEADER.size + size
            if end > len(self._buffer):
                break
            frames.append((_STDOUT if kind <= _STDOUT else _STDERR, self._buffer[at + _HEADER.size : end]))
            at = end
        self._buffer = self._buffer[at:]
        return frames


def _would_block(error: OSError) -> bool:
    if isinstance(error, (BlockingIOError, InterruptedError)):
        return True
    # TLS names its two reasons to wait by classes of its own; importing ssl only to ask costs 10 ms.
    return type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")
