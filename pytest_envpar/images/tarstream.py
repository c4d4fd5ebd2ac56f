"""Tar archives written as a stream, so that no archive is ever held in memory or on disk.

The GNU format keeps any file name as its bytes (also names that are no UTF-8) and any size.
"""

from __future__ import annotations

import dataclasses
import tarfile
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path, PurePosixPath

_BLOCK = tarfile.BLOCKSIZE
_PIECE = 256 * 1024


@dataclasses.dataclass(frozen=True)
class Entry:
    """One member of an archive.

    Args:
        name: Relative path inside the archive, ``/`` between its parts.
        kind: ``file`` has ``source`` (host path) or ``data``; ``link`` is a symbolic link to ``target``.
        size: Bytes of a file's content; a source that shrinks meanwhile is padded, one that grows is cut.
        mtime: Seconds since the epoch.
    """

    name: str
    kind: Literal["file", "directory", "link"]
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    source: Path | None = None
    data: bytes = b""
    target: str = ""


def directory(name: str | PurePosixPath, mode: int, uid: int = 0, gid: int = 0, mtime: int = 0) -> Entry:
    """A directory member."""
    return Entry(str(name), "directory", mode, uid, gid, mtime)


def bytes_file(name: str, data: bytes, mode: int = 0o644, uid: int = 0, gid: int = 0) -> Entry:
    """A file member with content from memory."""
    return Entry(name, "file", mode, uid, gid, size=len(data), data=data)


def tar(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The archive of ``entries`` in pieces of some 256 KiB."""
    pending = bytearray()
    for entry in entries:
        for piece in _member(entry):
            pending += piece
            if len(pending) >= _PIECE:
                yield bytes(pending)
                pending.clear()
    pending += b"\0" * (2 * _BLOCK)
    yield bytes(pending)


def _member(entry: Entry) -> Iterator[bytes]:
    info = tarfile.TarInfo(entry.name)
    info.mode, info.uid, info.gid, info.mtime = entry.mode & 0o7777, entry.uid, entry.gid, entry.mtime
    if entry.kind == "directory":
        info.type = tarfile.DIRTYPE
    elif entry.kind == "link":
        info.type, info.linkname = tarfile.SYMTYPE, entry.target
    else:
        info.size = entry.size
    if entry.source is None:
        yield info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + entry.data
    else:
        with entry.source.open("rb") as file:
            yield info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
            left = entry.size
            while left and (piece := file.read(min(left, _PIECE))):
                left -= len(piece)
                yield piece
            while left:
                padding = min(left, _PIECE)
                left -= padding
                yield b"\0" * padding
    yield b"\0" * (-info.size % _BLOCK)
