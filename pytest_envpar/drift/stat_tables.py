"""What an image looks like in the containers of one engine: every path with its inode, kept between comparisons.

A container's files that are still the image's are the same inodes with the same time of their last change, so that one
walk through the container tells which have to be read. The table is what a walk through a container of the image said,
in the scanner's own frames, and what was asked about single paths since.

    b"envpar-stat 1\\n", then zlib: frames as in ``inside/program.py``, of the letters R, L and P

Of another engine, or of the image when it is pulled again, the inodes are others: the key names the engine, and a table
in which too much differs is thrown away. It is never wrong about what is equal: no other file is made at the same
nanosecond with the same number.

Of two images that share layers only the part in which they may differ is walked through; the two tables of that are of
use beside each other only.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from pytest_envpar.drift.remote import ROW, Detail
from pytest_envpar.errors import EnvparError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_envpar.drift.model import NotCompared
    from pytest_envpar.drift.remote import Frame, Listing, Scanner

# 1: first.
VERSION = 1
_MAGIC = b"envpar-stat %d\n" % VERSION
_MAX_RAW = 1 << 30
_MAX_FRAME = 1 << 26
_PIECE = 1 << 18
_FEW = 100


class TableError(EnvparError):
    """The bytes are no table."""

    code = "stat-table"


class Recorder:
    """A listing that remembers what a scanner says. Mutable.

    Args:
        listing: From a scanner that runs in a container of an image.
        key: Under which it is kept.
    """

    most_moved: int | None = None
    """See :class:`~pytest_envpar.drift.remote.Listing`: what it says is true at this moment."""

    def __init__(self, listing: Listing, key: str) -> None:
        self.key = key
        self._listing = listing
        self._packer = zlib.compressobj(1)
        self._pieces = [_MAGIC]
        self._whole = False
        self._size = 0
        self.changed = True
        """Whether it is worth being kept (again)."""

    @property
    def notes(self) -> Sequence[NotCompared]:
        """See :class:`~pytest_envpar.drift.remote.Listing`."""
        return self._listing.notes

    def frames(self, skip: Sequence[str]) -> Iterator[Frame]:
        """See :class:`~pytest_envpar.drift.remote.Listing`."""
        return self._recorded(self._listing.frames(skip))

    def details(self, paths: Sequence[str]) -> dict[str, Detail]:
        """See :class:`~pytest_envpar.drift.remote.Listing`."""
        found = self._listing.details(paths)
        self._add(*_detail_frames(found))
        return found

    def table(self) -> bytes | None:
        """What was said; None if not all was, if it is too large or some could not be read. To be asked once."""
        if not self._whole or self._size > _MAX_RAW or self._listing.notes:
            return None
        return b"".join([*self._pieces, self._packer.flush()])

    def _recorded(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        for frame in frames:
            self._add(frame)
            yield frame
        self._whole = True

    def _add(self, *frames: Frame) -> None:
        for letter, data in frames:
            self._size += 5 + len(data)
            if self._size > _MAX_RAW:
                self._pieces.clear()  # it could not be read again
                return
            piece = self._packer.compress(letter + struct.pack("<I", len(data)) + data)
            if piece:
                self._pieces.append(piece)


class Table:
    """A listing from a table. Mutable: it learns.

    Args:
        data: What :meth:`Recorder.table` gave.
        scanner: Starts a scanner in a container of the image, for what the table does not know.
        key: Under which it is kept.
        part: Whether it is one of two that are of use beside each other only.

    Raises:
        TableError: The bytes are no table, here or while it is read.
    """

    def __init__(self, data: bytes, scanner: Callable[[], Scanner], key: str, *, part: bool = False) -> None:
        if not data.startswith(_MAGIC):
            raise TableError("it does not begin as one of this version")
        self.key = key
        self._data = data
        self._part = part
        self._start = scanner
        self._scanner: Scanner | None = None
        self._rows = 0
        self._known: dict[str, Detail] = {}
        self._learnt: dict[str, Detail] = {}

    @property
    def changed(self) -> bool:
        """Whether it is worth being kept again."""
        return bool(self._learnt)

    @property
    def most_moved(self) -> int | None:
        """See :class:`~pytest_envpar.drift.remote.Listing`; known when all frames are."""
        return None if self._part else max(_FEW, self._rows // 4)

    @property
    def asked(self) -> bool:
        """Whether the image itself had to be asked."""
        return self._scanner is not None

    @property
    def notes(self) -> Sequence[NotCompared]:
        """See :class:`~pytest_envpar.drift.remote.Listing`."""
        return () if self._scanner is None else self._scanner.notes

    def frames(self, skip: Sequence[str]) -> Iterator[Frame]:  # noqa: ARG002 - always that of an image
        """See :class:`~pytest_envpar.drift.remote.Listing`."""
        for letter, data in _frames(self._data):
            if letter != b"P":
                self._rows += data.count(b"\0") // ROW
                yield letter, data
                continue
            fields = data.decode("utf-8", "surrogateescape").split("\0")
            if len(fields) != 4:
                raise TableError("what it knows of a path is incomplete")
            self._known[fields[0]] = Detail(fields[1], fields[2])

    def details(self, paths: Sequence[str]) -> dict[str, Detail]:
        """See :class:`~pytest_envpar.drift.remote.Listing`. Only what it does not know makes it look into the image."""
        found = {path: self._known[path] for path in paths if path in self._known}
        missing = [path for path in paths if path not in found]
        if missing:
            if self._scanner is None:
                self._scanner = self._start()
            learnt = self._scanner.details(missing)
            self._learnt |= learnt
            found |= learnt
        return found

    def table(self) -> bytes | None:
        """With what it has learnt; None if something could not be read."""
        if self.notes:
            return None
        packer = zlib.compressobj(1)
        frames = (*_frames(self._data), *_detail_frames(self._learnt))
        pieces = [packer.compress(letter + struct.pack("<I", len(data)) + data) for letter, data in frames]
        return b"".join([_MAGIC, *pieces, packer.flush()])


def _detail_frames(details: dict[str, Detail]) -> Iterator[Frame]:
    for path, (digest, xattrs) in details.items():
        yield b"P", f"{path}\0{digest}\0{xattrs}\0".encode("utf-8", "surrogateescape")


def _frames(data: bytes) -> Iterator[Frame]:
    raw = bytearray()
    pieces = _unpacked(data)
    total = 0
    while True:
        while len(raw) < 5 or len(raw) < 5 + struct.unpack_from("<I", raw, 1)[0]:
            piece = next(pieces, None)
            if piece is None:
                if raw:
                    raise TableError("it is cut off")
                return
            total += len(piece)
            raw += piece
            if total > _MAX_RAW or (len(raw) >= 5 and struct.unpack_from("<I", raw, 1)[0] > _MAX_FRAME):
                raise TableError("it claims what cannot be")
        end = 5 + struct.unpack_from("<I", raw, 1)[0]
        letter, frame = bytes(raw[:1]), bytes(raw[5:end])
        if letter not in (b"R", b"L", b"P"):
            raise TableError("it holds something else")
        del raw[:end]
        yield letter, frame


def _unpacked(data: bytes) -> Iterator[bytes]:
    unpacker = zlib.decompressobj()
    rest = data[len(_MAGIC) :]
    try:
        while not unpacker.eof:
            piece = unpacker.decompress(rest, _PIECE)
            rest = unpacker.unconsumed_tail
            if not piece and not rest:
                break
            yield piece
    except zlib.error as error:
        raise TableError(f"it is broken: {error}") from error
    if not unpacker.eof:
        raise TableError("it is cut off")
