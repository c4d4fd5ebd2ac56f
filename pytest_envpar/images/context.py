"""A build's context: which files it has (.dockerignore), their archive and their hash.

The archive is deterministic: sorted, root's, with one fixed time, so equal content gives equal bytes on every
machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import marshal
import os
import stat
import time
from typing import TYPE_CHECKING

from pytest_envpar.images.digests import Digests, times
from pytest_envpar.images.ignore import IgnoreRules
from pytest_envpar.images.tarstream import Entry, directory
from pytest_envpar.images.turns import writable_folder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

# Not the epoch: building a wheel or a zip from files older than 1980 fails.
_MTIME_S = 1_000_000_000
_OUTSIDE_DOCKERFILE = ".envpar.Dockerfile"
_TYPE = 0o170000

Row = tuple[str, int, int, int, int, int, int]
"""A path in the context: name, type and mode as the kernel has them, then what tells whether it is still the same (see
:data:`~pytest_envpar.images.digests.Times`; zeros for a directory).

Not a class: there are many, and a run that finds nothing changed does nothing but make them.
"""


@dataclasses.dataclass(frozen=True)
class Context:
    """A context as it will be sent.

    Args:
        folder: The folder (host).
        rows: What is in it, in the order in which it was found.
        dockerfile: The Dockerfile's name inside the archive.
        outside: The Dockerfile's content, if it does not lie in the folder.
        began_ns: When the folder was looked at, in nanoseconds since the epoch.
    """

    folder: Path
    rows: tuple[Row, ...]
    dockerfile: str
    outside: bytes | None
    began_ns: int

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Archive members, sorted by name."""
        made = [self._entry(row) for row in self.rows]
        if self.outside is not None:
            size = len(self.outside)
            made.append(
                Entry(_OUTSIDE_DOCKERFILE, "file", 0o644, mtime=_MTIME_S, size=size, data=self.outside)
            )
        return tuple(sorted(made, key=lambda entry: os.fsencode(entry.name)))

    def _entry(self, row: Row) -> Entry:
        name, mode, size = row[:3]
        path = self.folder / name
        if stat.S_ISDIR(mode):
            return directory(name, stat.S_IMODE(mode), mtime=_MTIME_S)
        if stat.S_ISLNK(mode):
            return Entry(name, "link", 0o777, mtime=_MTIME_S, target=os.fspath(path.readlink()))
        return Entry(name, "file", stat.S_IMODE(mode), mtime=_MTIME_S, size=size, source=path)

    def digest(self, memory: Path | None = None) -> str:
        """Hash of names, types, modes, link targets and contents.

        Args:
            memory: Where digests are remembered (host), so that only what changed is read; see :func:`memory_of`.

        Raises:
            OSError: A file cannot be read.
        """
        known = Digests(memory, self.began_ns)
        signature = "-"
        if memory is not None:
            # The same rows are the same bytes, since version 2 knows no references. A file system that lists them in
            # another order than the last time costs the way below, no more.
            rows = marshal.dumps((self.rows, self.dockerfile, self.outside), 2)
            signature = hashlib.sha256(rows).hexdigest()
            whole = known.whole(signature)
            if whole is not None:
                return whole
        lines = [f"{row[0]}\0{self._line(row, known)}" for row in self.rows]
        if self.outside is not None:
            content = hashlib.sha256(self.outside).hexdigest()
            lines.append(f"{_OUTSIDE_DOCKERFILE}\0file\000644\0\0{content}\0")
        # Fields are ended by what no name can have; so the order is that of the names, the same on every machine.
        made = hashlib.sha256("".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()
        if memory is not None:
            if known.settled(row[2:] for row in self.rows if not stat.S_ISDIR(row[1])):
                known.keep(signature, made)
            else:
                known.keep()
        return made

    def _line(self, row: Row, known: Digests) -> str:
        name, mode = row[:2]
        if stat.S_ISDIR(mode):
            return f"directory\0{stat.S_IMODE(mode):o}\0\0\0"
        path = f"{self.folder}/{name}"
        if stat.S_ISLNK(mode):
            return f"link\000777\0{os.readlink(path)}\0\0"  # noqa: PTH115
        return f"file\0{stat.S_IMODE(mode):o}\0\0{known.of(path, name, row[2:])}\0"


def memory_of(context: Path, dockerfile: Path) -> Path:
    """Where the digests of a context are remembered (host)."""
    name = hashlib.sha256(os.fsencode(context) + b"\0" + os.fsencode(dockerfile)).hexdigest()[:24]
    return writable_folder("digests") / name


def read_context(context: Path, dockerfile: Path, leave_out: Collection[Path] = ()) -> Context:
    """List the context as Docker would send it.

    Args:
        context: The folder (host).
        dockerfile: The Dockerfile (host); it may lie outside the context.
        leave_out: Files and folders (host) that are not part of it, nor is what is written beside them to be renamed:
            what a run writes, such as the lock file, which holds the hash of what is listed here.

    Raises:
        OSError: The folder, or the Dockerfile beside it, cannot be read.
    """
    began_ns = time.time_ns()
    inside = _inside(context, dockerfile)
    ignore_file = dockerfile.with_name(dockerfile.name + ".dockerignore")
    if not ignore_file.is_file():
        ignore_file = context / ".dockerignore"
    rules: IgnoreRules = IgnoreRules(())
    if ignore_file.is_file():
        rules = IgnoreRules.parse(ignore_file.read_text(encoding="utf-8-sig", errors="surrogateescape"))
    # The builder reads both itself; it hides them from COPY again if they are ignored.
    always = {".dockerignore"} | ({inside} if inside is not None else set())
    ours = [name for name in (_inside(context, path) for path in leave_out) if name is not None]
    rows = _Walk(os.fspath(context), rules, frozenset(always), tuple(ours)).rows()
    outside = dockerfile.read_bytes() if inside is None else None
    return Context(context, rows, inside or _OUTSIDE_DOCKERFILE, outside, began_ns)


def _inside(context: Path, dockerfile: Path) -> str | None:
    try:
        return dockerfile.relative_to(context).as_posix()
    except ValueError:
        return None


@dataclasses.dataclass(frozen=True)
class _Walk:
    """One look through a context.

    Args:
        folder: The context (host).
        always: Names that are kept whatever the rules say.
        ours: Names that are left out with all that is in them.
    """

    folder: str
    rules: IgnoreRules
    always: frozenset[str]
    ours: tuple[str, ...]

    def rows(self) -> tuple[Row, ...]:
        """What is kept."""
        found: list[Row] = []
        # Folders that are ignored themselves, and may have something to keep.
        doubtful = False
        pending: list[tuple[str, int]] = [("", 0)]
        rules, ours = self.rules, self.ours
        while pending:
            prefix, above = pending.pop()
            with os.scandir(self.folder + "/" + prefix) as listed:
                for entry in listed:
                    name = prefix + entry.name
                    if ours and _is_ours(name, ours):
                        continue
                    matches = rules.matches(name, above) if rules.patterns else 0
                    kept = not matches or not rules.ignored(matches) or name in self.always
                    if entry.is_dir(follow_symlinks=False) and (kept or self._may_hold(name)):
                        pending.append((name + "/", matches))
                        doubtful = doubtful or not kept
                    if not kept:
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    mode = status.st_mode
                    kind = mode & _TYPE
                    if kind in (stat.S_IFREG, stat.S_IFLNK):
                        found.append((name, mode, *times(status)))
                    elif kind == stat.S_IFDIR:
                        found.append((name, mode, 0, 0, 0, 0, 0))
                    # A socket or pipe has no content to send.
        if doubtful:
            found += self._missing_parents(found)
        return tuple(found)

    def _may_hold(self, name: str) -> bool:
        return self.rules.takes_back or any(path.startswith(f"{name}/") for path in self.always)

    def _missing_parents(self, found: Iterable[Row]) -> list[Row]:
        """The folders above kept paths that are ignored themselves."""
        have = {row[0] for row in found}
        made: list[Row] = []
        for name in tuple(have):
            parent = name.rpartition("/")[0]
            while parent and parent not in have:
                have.add(parent)
                made.append((parent, os.lstat(f"{self.folder}/{parent}").st_mode, 0, 0, 0, 0, 0))
                parent = parent.rpartition("/")[0]
        return made


def _is_ours(name: str, ours: Iterable[str]) -> bool:
    for own in ours:
        folder, _, last = own.rpartition("/")
        parent, _, base = name.rpartition("/")
        if name == own or name.startswith(f"{own}/") or (parent == folder and base.startswith(f".{last}.")):
            return True
    return False
