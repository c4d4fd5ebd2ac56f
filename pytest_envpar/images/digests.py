"""The digests of files, remembered between runs, so that a file is read again only when it may have changed.

A file is taken for unchanged if size, modification time, change time, inode and device are what they were: the change
time moves with every write and cannot be set. What was written so shortly before it was read that another write could
have the same times is not remembered at all, as git does with its index
(https://git-scm.com/docs/racy-git): it is read again by the next run, and remembered then.

One file for one set of files: a line for the whole set, so that nothing else is read if nothing changed, then one for
each of its files. Each has a checksum; a damaged, missing or foreign memory is an empty one; writing it never fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# 1: first.
_MAGIC = "envpar-digests-1"
_RACY_NS = 2_000_000_000
"""The coarsest clock of a file system that is in use (FAT), in nanoseconds."""
_PIECE = 1 << 20
_MAX_BYTES = 256 << 20

Times = tuple[int, int, int, int, int]
"""Size, modification and change time in nanoseconds, inode, device."""


def times(status: os.stat_result) -> Times:
    """What tells whether a file is still the same."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


def file_digest(path: str, size: int = _PIECE) -> str:
    """The SHA-256 of a file's content, in hexadecimal. Raises OSError.

    Args:
        size: How large it is thought to be, in bytes; only for speed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        wanted = min(size, _PIECE) + 1
        piece = os.read(descriptor, wanted)
        total = hashlib.sha256(piece)
        # A regular file gives less than was asked for at its end only.
        while len(piece) == wanted:
            wanted = _PIECE
            piece = os.read(descriptor, wanted)
            total.update(piece)
    finally:
        os.close(descriptor)
    return total.hexdigest()


class Digests:
    """The digests of one set of files. Changes while files are asked for; :meth:`keep` writes it.

    Args:
        place: Its file (host); ``None`` remembers nothing.
        now_ns: When the asking began, in nanoseconds since the epoch, taken before any file was looked at.
    """

    def __init__(self, place: Path | None, now_ns: int) -> None:
        self._place = place
        self._settled_before_ns = now_ns - _RACY_NS
        self._known: dict[str, tuple[str, Times]] | None = None
        self._seen: dict[str, tuple[str, Times]] = {}
        self._read = 0

    def settled(self, changed: Iterable[Times]) -> bool:
        """Whether all of these were written long enough ago to be remembered."""
        limit = self._settled_before_ns
        return all(each[1] < limit and each[2] < limit for each in changed)

    def whole(self, signature: str) -> str | None:
        """The digest that was kept for a whole set with this signature; reads nothing else."""
        if self._place is None:
            return None
        try:
            with self._place.open("rb") as file:
                parts = file.readline(400).decode("ascii", "replace").split()
        except OSError:
            return None
        if len(parts) != 4 or parts[0] != _MAGIC or parts[3] != _check(" ".join(parts[:3]).encode()):
            return None
        return parts[2] if parts[1] == signature else None

    def of(self, path: str, name: str, status: Times) -> str:
        """The digest of a file.

        Args:
            path: Where it is (host).
            name: Its name in the set.
            status: What it looked like before.

        Raises:
            OSError: It cannot be read.
        """
        if self._known is None:
            self._known = self._load()
        known = self._known.get(name)
        if known is not None and known[1] == status:
            self._seen[name] = known
            return known[0]
        made = file_digest(path, status[0])
        self._read += 1
        if self.settled((status,)):
            self._seen[name] = (made, status)
        return made

    def keep(self, signature: str = "-", digest: str = "-") -> None:
        """Write what was asked for in the place of what was known.

        Args:
            signature: Of the whole set, if nothing of it was written just now.
            digest: What :meth:`whole` is to answer for it.
        """
        if self._place is None or (not self._read and signature == "-" and self._known == self._seen):
            return
        head = f"{_MAGIC} {signature} {digest}"
        body = json.dumps(self._seen, separators=(",", ":")).encode()
        content = f"{head} {_check(head.encode())}\n{_check(body)} ".encode() + body
        beside = None
        with contextlib.suppress(OSError):
            self._place.parent.mkdir(parents=True, exist_ok=True)
            try:
                handle, beside = tempfile.mkstemp(prefix=f".{self._place.name}.", dir=self._place.parent)
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                os.replace(beside, self._place)  # noqa: PTH105
                beside = None
            finally:
                if beside is not None:
                    os.unlink(beside)  # noqa: PTH108

    def _load(self) -> dict[str, tuple[str, Times]]:
        try:
            if self._place is None or self._place.stat().st_size > _MAX_BYTES:
                return {}
            _, _, rest = self._place.read_bytes().partition(b"\n")
            check, _, body = rest.partition(b" ")
            if check.decode("ascii", "replace") != _check(body):
                return {}
            return {name: (str(made), _times(given)) for name, (made, given) in json.loads(body).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


def _times(given: list[int]) -> Times:
    size, modified, changed, inode, device = given
    return size, modified, changed, inode, device


def _check(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
