"""The file of the ledger: made in one step, set aside when it is broken, and never mistaken for another."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

KEPT_BROKEN = 3
"""How many broken files are kept (``.broken-1`` and so on); the oldest makes room."""
_LOCK_S = 5.0
_BESIDE = ("-wal", "-shm", "-journal")
_NETWORK = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "lustre",
    "gpfs",
    "glusterfs",
    "virtiofs",
)
"""File systems on which WAL, which needs memory that all processes share, cannot be trusted."""


class UnusableError(Exception):
    """The ledger cannot be used here; the message says why. The run goes on without it."""


Identity = tuple[int, int]
"""Device and inode of the file that was opened."""


class Place:
    """Where a ledger is.

    Args:
        path: The file (host, absolute).
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def identity(self) -> Identity | None:
        """The file that is there now; ``None`` if there is none.

        Raises:
            UnusableError: Something else than a regular file is there, for example ``/dev/null``.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise UnusableError(f"{self.path} is no regular file")
        return status.st_dev, status.st_ino

    def create(self, fill: Callable[[Path], None]) -> None:
        """Put a new file in place that ``fill`` has written beside it, unless somebody else was first.

        No other process ever sees a ledger that is only half made.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._exclusive():
            if self.identity() is not None:
                return
            handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
            os.close(handle)
            beside = Path(name)
            try:
                fill(beside)
                # Of a ledger that somebody removed: SQLite would play an old log into the new file.
                self._remove_beside(self.path)
                beside.replace(self.path)
            finally:
                with contextlib.suppress(OSError):
                    beside.unlink(missing_ok=True)
                    self._remove_beside(beside)

    def set_aside(self, broken: Identity) -> Path | None:
        """Move the file out of the way; where to, or ``None`` if another process has done so.

        Args:
            broken: The file that was found broken. A newer one in its place stays.
        """
        with self._exclusive():
            if self.identity() != broken:
                return None
            target = self._free()
            self.path.replace(target)
            for suffix in _BESIDE:
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{suffix}").replace(f"{target}{suffix}")
            return target

    def shared_memory(self) -> bool:
        """Whether the file system is one of this machine alone."""
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return True
        return not is_network(file_system(self.path.parent.resolve(), mounts))

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        import filelock

        try:
            with filelock.FileLock(f"{self.path}.guard", timeout=_LOCK_S):
                yield
        except filelock.Timeout:
            raise UnusableError(f"{self.path}.guard is held by another process") from None

    def _free(self) -> Path:
        names = [
            self.path.with_name(f"{self.path.name}.broken-{number}") for number in range(1, KEPT_BROKEN + 1)
        ]
        for name in names:
            if not name.exists():
                return name
        return min(names, key=lambda name: name.stat().st_mtime)

    @staticmethod
    def _remove_beside(path: Path) -> None:
        for suffix in _BESIDE:
            Path(f"{path}{suffix}").unlink(missing_ok=True)


def file_system(folder: Path, mounts: str) -> str:
    """The type of the file system that ``folder`` is on.

    Args:
        folder: Absolute and resolved (host).
        mounts: ``/proc/self/mountinfo`` (proc(5)).
    """
    best, found = -1, ""
    for line in mounts.splitlines():
        before, _, behind = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not behind:
            continue
        point = (
            fields[4]
            .replace("\\040", " ")
            .replace("\\011", "\t")
            .replace("\\012", "\n")
            .replace("\\134", "\\")
        )
        # The last mount of a point hides the ones before.
        if len(point) >= best and folder.is_relative_to(point):
            best, found = len(point), behind.split(" ")[0]
    return found


def is_network(kind: str) -> bool:
    """Whether a type of file system may be shared with other machines."""
    return kind in _NETWORK or kind.startswith("fuse.")


def is_broken(error: sqlite3.Error) -> bool:
    """Whether an error means that the file is no ledger any more, and not that it cannot be reached for now."""
    text = str(error)
    return any(
        words in text
        for words in ("malformed", "not a database", "no such table", "no such column", "has no column named")
    )
