"""Digests of open files, also of those that are written to meanwhile and of those that are mostly holes.

Part of the program that runs inside a container, and used on the host.
"""

from __future__ import annotations

import errno
import os
import struct

TYPE_CHECKING = False  # as in `typing`, which takes as long to import as some hundred files to look at
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from queue import SimpleQueue
    from threading import Thread
    from typing import Any

SPARSE_FROM = 1 << 30
"""From this size on, blocks of zeros do not count: a file of 2 TiB may be all holes."""
SPARSE_BLOCK = 1 << 16
SMALL = 1 << 16
"""Up to this size a file is read at once."""

_PIECE = 1 << 20
_ATTEMPTS = 3
_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_ZEROS = bytes(SPARSE_BLOCK)


def small(descriptor: int, opened: os.stat_result) -> str:
    """The digest of a small file; empty if it changed meanwhile."""
    size = opened.st_size
    if not size:
        return _EMPTY
    data = os.read(descriptor, size + 1)
    if len(data) != size:
        return ""
    after = os.fstat(descriptor)
    if after.st_mtime_ns != opened.st_mtime_ns or after.st_size != size:
        return ""
    import hashlib  # a scan that reads nothing is over in the time that this takes

    return hashlib.sha256(data).hexdigest()


def large(descriptor: int, opened: os.stat_result) -> str:
    """The digest of an open file, which is closed; empty if it changes all the time, or its size does."""
    size = opened.st_size
    try:
        for _ in range(_ATTEMPTS):
            digest = digest_of(descriptor, size)
            after = os.fstat(descriptor)
            if after.st_size != size:
                return ""
            if after.st_mtime_ns == opened.st_mtime_ns:
                return digest
            os.lseek(descriptor, 0, os.SEEK_SET)
            opened = after
        return ""
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def digest_of(descriptor: int, size: int) -> str:
    """sha256 of an open file's first ``size`` bytes; from SPARSE_FROM on that of its blocks that are not all zeros."""
    if size < SPARSE_FROM:
        import hashlib

        made = hashlib.sha256()
        left = size
        while left > 0:
            piece = os.read(descriptor, min(_PIECE, left))
            if not piece:
                break
            made.update(piece)
            left -= len(piece)
        return made.hexdigest()
    blocks = SparseDigest(size)
    at = 0
    while at < size:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        at -= at % SPARSE_BLOCK
        os.lseek(descriptor, at, os.SEEK_SET)
        block = _block(descriptor, min(SPARSE_BLOCK, size - at))
        if not block:
            break
        blocks.add(at, block)
        at += SPARSE_BLOCK
    return blocks.hexdigest()


class SparseDigest:
    """The digest of a file from SPARSE_FROM on, of its blocks in order."""

    def __init__(self, size: int) -> None:
        import hashlib

        self._hash = hashlib.sha256(b"envpar sparse 1\0%d\0" % size)

    def add(self, at: int, block: bytes) -> None:
        """Count a whole block, which is shorter only at the end of the file."""
        if block != _ZEROS[: len(block)]:
            self._hash.update(struct.pack("<Q", at) + block)

    def hexdigest(self) -> str:
        """The digest so far."""
        return self._hash.hexdigest()


def _block(descriptor: int, size: int) -> bytes:
    block = os.read(descriptor, size)
    while len(block) < size:
        piece = os.read(descriptor, size - len(block))
        if not piece:
            break
        block += piece
    return block


class Threads:
    """Threads that read large files beside each other: as many as can be started, in a container at the limit of its
    processes none. Then everything is done at once, by whoever asks for it."""

    def __init__(self) -> None:
        from queue import SimpleQueue
        from threading import Thread

        self._jobs: SimpleQueue[Any] = SimpleQueue()
        self._threads: list[Thread] = []
        for _ in range(max(2, min(4, os.cpu_count() or 1))):
            thread = Thread(target=self._work, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                break
            self._threads.append(thread)

    def submit(self, function: Callable[..., Any], *args: object) -> Future[Any]:
        """Call it in one of the threads."""
        from concurrent.futures import Future

        future: Future[Any] = Future()
        if self._threads:
            self._jobs.put((future, function, args))
        else:
            _call(future, function, args)
        return future

    def map(self, function: Callable[[str], Any], given: Iterable[str]) -> list[Any]:
        """What it gives for each, in their order."""
        return [future.result() for future in [self.submit(function, each) for each in given]]

    def close(self) -> None:
        """Wait until everything is done."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        for job in iter(self._jobs.get, None):
            _call(*job)


def _call(future: Future[Any], function: Callable[..., Any], args: tuple[object, ...]) -> None:
    try:
        future.set_result(function(*args))
    except Exception as error:  # noqa: BLE001 - for whoever asks for the result
        future.set_exception(error)
