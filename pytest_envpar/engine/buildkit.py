"""BuildKit's build trace: protobuf in base64, of which a few fields are read.

``StatusResponse`` of https://github.com/moby/buildkit/blob/v0.8.3/api/services/control/control.proto. A protobuf
library for two messages would be a heavy dependency; the encoding is a list of numbered fields.
"""

from __future__ import annotations

import base64
import binascii
import collections
import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE = "moby.buildkit.trace"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VERTEX, _LOG = 1, 3
_VERTEX_DIGEST, _VERTEX_NAME, _VERTEX_STARTED, _VERTEX_ERROR = 1, 3, 5, 7
_LOG_VERTEX, _LOG_TEXT = 1, 4
_SKIPPED = "context canceled"


@dataclasses.dataclass
class Trace:
    """What a trace has told so far; changes with every :meth:`read`.

    Args:
        tail_lines: How many lines of each step's output are kept.
    """

    tail_lines: int
    failed: str | None = None
    _names: dict[bytes, str] = dataclasses.field(default_factory=dict)
    _shown: set[bytes] = dataclasses.field(default_factory=set)
    _tails: dict[bytes, collections.deque[str]] = dataclasses.field(default_factory=dict)
    _failed_vertex: bytes = b""

    @property
    def tail(self) -> tuple[str, ...]:
        """The end of the output of the step that failed."""
        return tuple(self._tails.get(self._failed_vertex, ()))

    def read(self, aux: object) -> Iterator[str]:
        """Take one trace in; yields lines to show. What cannot be decoded is passed over: it is only progress."""
        try:
            raw = base64.b64decode(aux if isinstance(aux, str) else "", validate=True)
            for number, message in _fields(raw):
                if number == _VERTEX:
                    yield from self._vertex(dict(_fields(message)))
                elif number == _LOG:
                    yield from self._log(dict(_fields(message)))
        except (binascii.Error, ValueError):
            return

    def _vertex(self, vertex: dict[int, bytes]) -> Iterator[str]:
        digest = vertex.get(_VERTEX_DIGEST, b"")
        name = vertex.get(_VERTEX_NAME, b"").decode("utf-8", "replace")
        self._names[digest] = name
        if _VERTEX_STARTED in vertex and digest not in self._shown:
            self._shown.add(digest)
            yield name
        error = vertex.get(_VERTEX_ERROR, b"").decode("utf-8", "replace")
        # The other steps that ran at the same time are cancelled, and are no cause.
        if error and self.failed is None and _SKIPPED not in error:
            self.failed, self._failed_vertex = name, digest

    def _log(self, log: dict[int, bytes]) -> Iterator[str]:
        tail = self._tails.setdefault(log.get(_LOG_VERTEX, b""), collections.deque(maxlen=self.tail_lines))
        for line in log.get(_LOG_TEXT, b"").decode("utf-8", "replace").splitlines():
            tail.append(line)
            yield line


def _fields(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a protobuf message: number and content. Raises ValueError if it is not one."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        kind = key & 7
        if kind == _VARINT:
            start = at
            _, at = _varint(raw, at)
        elif kind == _BYTES:
            size, start = _varint(raw, at)
            at = start + size
        elif kind in (_FIXED64, _FIXED32):
            start, at = at, at + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError("not a field")
        if at > len(raw):
            raise ValueError("cut short")
        yield key >> 3, raw[start:at]


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(raw) or shift > 63:
            raise ValueError("not a number")
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if not byte & 0x80:
            return value, at
