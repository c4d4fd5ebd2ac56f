"""The flight recorder: what a worker said and did not send yet, in memory that outlives it.

A worker batches its messages for speed. They wait in an anonymous shared mapping that the supervisor made before it
forked, so that after a death (``os._exit``, a segmentation fault, the OOM killer) the supervisor still reads which test
was running. It also looks in from time to time while the worker lives, and passes on what has been waiting, so that the
worker needs neither a thread nor a timer of its own: both would be visible to the tests.

Layout: number of payloads sent (u64), bytes waiting (u32), finished (u32), then the waiting bytes: encoded messages,
joined by commas.
"""

import mmap
import struct
from typing import Optional, Tuple

CAPACITY = 1 << 18
_HEAD = struct.Struct("<QII")
_LENGTH = struct.Struct("<I")
_LENGTH_AT = 8
_FINISHED_AT = 12


class Recorder:
    """Shared by one worker (which writes) and the supervisor (which reads)."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, _HEAD.size + CAPACITY)
        self._sent = 0
        self._length = 0

    # the worker's half

    def append(self, message: bytes) -> bool:
        """Keep an encoded message; False if it does not fit and the caller has to send what is waiting first."""
        length = self._length
        end = length + len(message) + (1 if length else 0)
        if end > CAPACITY:
            return False
        start = _HEAD.size + length
        if length:
            message = b"," + message
        self._map[start : _HEAD.size + end] = message
        self._length = end
        # The length is written after the bytes: whoever reads it finds them complete.
        _LENGTH.pack_into(self._map, _LENGTH_AT, end)
        return True

    def waiting(self) -> bytes:
        return self._map[_HEAD.size : _HEAD.size + self._length]

    def sent(self) -> None:
        """What was waiting has been written completely. The length first: see ``Supervisor`` on why."""
        self._length = 0
        _LENGTH.pack_into(self._map, _LENGTH_AT, 0)
        self._sent += 1
        struct.pack_into("<Q", self._map, 0, self._sent)

    def finish(self) -> None:
        """The session is over; what follows is the end of the interpreter."""
        _LENGTH.pack_into(self._map, _FINISHED_AT, 1)

    # the supervisor's half

    def state(self) -> Tuple[int, int, bool]:
        """Payloads sent, bytes waiting, finished."""
        sent, length, finished = _HEAD.unpack_from(self._map, 0)
        return sent, length, bool(finished)

    def read(self, start: int, end: int) -> bytes:
        """Waiting bytes from ``start`` to ``end``, without the comma that may lead them."""
        data = self._map[_HEAD.size + start : _HEAD.size + end]
        return data[1:] if data[:1] == b"," else data

    def steady(self, start: int, sent: int, length: int) -> Optional[bytes]:
        """The same as ``read(start, length)`` while the worker lives; None if it has gone on meanwhile.

        Args:
            sent: What ``state`` said of payloads.
            length: What it said of waiting bytes.
        """
        data = self.read(start, length)
        # The worker writes over them only after it has counted the payload.
        still, waiting, _ = self.state()
        return data if still == sent and waiting >= length else None

    def close(self) -> None:
        self._map.close()
