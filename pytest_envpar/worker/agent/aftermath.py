"""What a worker knew of the file system, kept where the next one finds it if this one dies.

Two files of ours: what was in each folder when the first worker began, and what has come and gone since. The time of
the second is that of the last look, so that the next worker can tell what was written after it: by the test that died.
"""

import marshal
import os
from typing import Any, Dict, Iterable, NamedTuple, Optional, Set

from .tree import Change, Names, as_set


class Recalled(NamedTuple):
    """What the last worker knew, and until when (nanoseconds)."""

    names: Dict[bytes, Names]
    since: int


class Aftermath:
    """Owns the two files. Where they cannot be written, nothing is kept.

    Args:
        path: Where they go, without their suffixes; a container path.
    """

    def __init__(self, path: str) -> None:
        self._base = path + ".names"
        self._journal = path + ".journal"

    def recall(self) -> Optional[Recalled]:
        """What a worker before this one knew; None if there was none in this container."""
        try:
            with open(self._base, "rb") as file:
                base: Any = marshal.load(file)
            with open(self._journal, "rb") as file:
                # Of what was written in the same tick of the clock, most was seen by that look.
                since = os.fstat(file.fileno()).st_mtime_ns + 1
                rows = file.read().split(b"\0")
        except (OSError, EOFError, ValueError, TypeError):
            return None
        names: Dict[bytes, Names] = dict(base)
        for row in rows:
            folder, _, name = row[1:].rpartition(b"/")
            if row[:1] == b"+":
                _set(names, folder).add(name)
            elif row[:1] == b"-":
                _set(names, folder).discard(name)
                names.pop(row[1:], None)
        return Recalled(names, since)

    def begin(self, names: Dict[bytes, Names]) -> None:
        """Keep what is known now."""
        try:
            with open(self._base, "wb") as file:
                marshal.dump({folder: _joined(there) for folder, there in names.items()}, file)
            with open(self._journal, "wb") as file:
                file.write(b"\0")
        except OSError:
            pass

    def note(self, changes: Iterable[Change]) -> None:
        """Keep what was found at a look, be it nothing."""
        rows = [
            (b"+" if change.kind == "created" else b"-") + change.path
            for change in changes
            if change.kind != "changed"
        ]
        try:
            # Not through a file object: after each test that leaves something, its own work is most of what this costs.
            fd = os.open(self._journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.write(fd, b"\0".join([*rows, b""]) or b"\0")
            finally:
                os.close(fd)
        except OSError:
            pass


def _joined(names: Names) -> bytes:
    return names if isinstance(names, bytes) else b"\0".join(names)


def _set(names: Dict[bytes, Names], folder: bytes) -> Set[bytes]:
    there = names[folder] = as_set(names.get(folder, b""))
    return there
