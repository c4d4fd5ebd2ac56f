"""Files between the host and a container, as tar streams.

What comes from a container is hostile: its archive is read as a stream, a member's name only ever chooses a place below
the target, nothing is written through a symbolic link, and devices, links that lead out and set-id bits stay behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tarfile
from typing import IO, TYPE_CHECKING

from pytest_envpar.containers.artifacts import ChunkReader
from pytest_envpar.errors import EngineError, UsageError
from pytest_envpar.images import tarstream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path, PurePosixPath

_PIECE = 256 * 1024
_MEMBER = 4096


class LinkError(Exception):
    """What was asked for is a symbolic link to ``target``: an engine's archive has the link itself."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.target = target


class _Room:
    """What an archive may still bring. Each member counts a block more, so that many empty ones are bounded, too."""

    def __init__(self, what: str, most: int | None) -> None:
        self._what = what
        self._most = most
        self._left = most

    def take(self, name: str, size: int) -> None:
        """Count a file before it is read. Raises UsageError if that is too much."""
        if self._left is None or self._most is None:
            return
        self._left -= _MEMBER + size
        if self._left < 0:
            raise UsageError(
                f"{self._what}: with {name} ({size} bytes) it is more than {self._most >> 20} MiB, which is the most "
                "that one call brings",
                hint="copy less at once, or read it in pieces with exec",
            )


def entries_of(source: Path, name: str) -> Iterator[tarstream.Entry]:
    """A host file or folder as members of an archive below ``name``; links stay links, sockets and devices stay here.

    Raises:
        UsageError: There is nothing that can be read.
    """
    try:
        yield from _entries(source, name)
    except OSError as error:
        raise UsageError(f"copy_in: {source} cannot be read: {error.strerror or error}") from error


def _entries(source: Path, name: str) -> Iterator[tarstream.Entry]:
    status = source.lstat()
    mode, mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
    if stat.S_ISLNK(status.st_mode):
        yield tarstream.Entry(name, "link", mode, mtime=mtime, target=str(source.readlink()))
    elif stat.S_ISREG(status.st_mode):
        yield tarstream.Entry(name, "file", mode, mtime=mtime, size=status.st_size, source=source)
    elif stat.S_ISDIR(status.st_mode):
        yield tarstream.directory(f"{name}/", mode, mtime=mtime)
        for child in sorted(source.iterdir()):
            yield from _entries(child, f"{name}/{child.name}")


def read_file(chunks: Iterable[bytes], path: PurePosixPath, most: int | None = None) -> bytes:
    """The content of the one regular file in an engine's archive of ``path``.

    Args:
        most: How many bytes it may have; ``None`` for any number.

    Raises:
        LinkError: It is a symbolic link.
        IsADirectoryError: It is a folder.
        UsageError: It is none of these, or too large.
    """
    for member, archive in _members(chunks, path):
        if member.isdir():
            raise IsADirectoryError(f"{path} is a directory in the container")
        if member.issym():
            raise LinkError(member.linkname)
        file = archive.extractfile(member) if member.isreg() else None
        if file is None:
            raise UsageError(f"{path} in the container is no regular file")
        if most is not None and member.size > most:
            raise UsageError(
                f"{path} in the container has {member.size} bytes, more than the {most >> 20} MiB that one call brings",
                hint="read it in pieces with exec (dd, tail -c +N | head -c N), or use copy_out",
            )
        return file.read()
    raise EngineError(f"the engine's archive of {path} is empty")


def entries_in(
    tar: IO[bytes], name: str, uid: int, gid: int, most: int | None = None
) -> Iterator[tarstream.Entry]:
    """The files, folders and symbolic links of an archive, below ``name`` and of one owner. May be read repeatedly.

    Args:
        most: How many bytes it may bring; ``None`` for any number.

    Raises:
        UsageError: It has a file with holes, of which a few bytes may claim any size, or brings too much.
    """
    tar.seek(0)
    room = _Room("copy_in", most)
    seen: dict[str, tarfile.TarInfo] = {}
    with tarfile.open(fileobj=tar, mode="r:") as archive:
        for member in archive:
            below = _below(member.name)
            if below is None:
                continue
            if member.issparse():
                raise UsageError(f"copy_in: {member.name} is packed as a file with holes, which is not taken")
            path = "/".join((name, *below))
            # A link has the content of a file that came before, and of nothing else.
            source = seen.get(member.linkname) if member.islnk() else member
            size = source.size if source is not None and source.isreg() else 0
            room.take(member.name, size)
            mode, mtime = member.mode & 0o7777, int(member.mtime)
            if member.isdir():
                yield tarstream.directory(f"{path}/", mode, uid, gid, mtime)
            elif member.issym():
                yield tarstream.Entry(path, "link", mode, uid, gid, mtime, target=member.linkname)
            elif source is not None and source.isreg():
                seen[member.name] = source
                file = archive.extractfile(source)
                data = b"" if file is None else file.read()
                yield tarstream.Entry(path, "file", mode, uid, gid, mtime, size=len(data), data=data)


def check_readable(source: Path) -> None:
    """Raise UsageError if there is nothing to copy; later it would break an archive off in its middle."""
    if not os.access(source, os.R_OK, follow_symlinks=False) and not source.is_symlink():
        raise UsageError(f"copy_in: {source} does not exist or cannot be read")


def extract(
    chunks: Iterable[bytes],
    path: PurePosixPath,
    target: Path,
    *,
    name: str | None = None,
    most: int | None = None,
) -> Path:
    """Write an engine's archive of ``path`` to ``target`` (host): a file as that file, a folder as that folder.

    Args:
        target: An existing folder takes the copy under ``name``; anything else is the copy's name.
        name: That of ``path`` by default.
        most: How many bytes are written at most; ``None`` for any number.

    Returns:
        The copy's path (host).

    Raises:
        LinkError: ``path`` is a symbolic link.
        UsageError: It cannot be written there, or is too much.
        EngineError: The archive is not what was asked for.
    """
    name = path.name if name is None else name
    place = target / name if target.is_dir() and name else target
    seen: dict[tuple[str, ...], Path] = {}
    made: list[tuple[Path, int]] = []
    room = _Room(f"copy_out of {path}", most)
    try:
        for member, archive in _members(chunks, path):
            below = _below(member.name)
            if below is None:
                continue
            if not below and member.issym():
                raise LinkError(member.linkname)
            room.take(member.name, member.size if member.isreg() else 0)
            written = _place(place, below)
            if member.isdir():
                _no_link(written)
                written.mkdir(parents=not below, exist_ok=True)
                made.append((written, member.mode))
            elif member.isreg():
                file = archive.extractfile(member)
                assert file is not None
                _write(written, file, member.mode)
                seen[below] = written
            elif member.islnk():
                first = seen.get(_below(member.linkname) or ())
                if first is not None:
                    room.take(member.name, first.stat().st_size)
                    with first.open("rb") as file:
                        _write(written, file, member.mode)
            elif member.issym() and _stays(below, member.linkname):
                with contextlib.suppress(FileNotFoundError):
                    written.unlink()
                written.symlink_to(member.linkname)
        for folder, mode in reversed(made):
            folder.chmod(mode & 0o777 | 0o700)
    except OSError as error:
        raise UsageError(f"copy_out: {place} cannot be written: {error.strerror or error}") from error
    return place


def _members(
    chunks: Iterable[bytes], path: PurePosixPath
) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    try:
        with tarfile.open(fileobj=ChunkReader(chunks), mode="r|", bufsize=_PIECE) as archive:
            for member in archive:
                yield member, archive
    except tarfile.TarError as error:
        raise EngineError(f"the engine's archive of {path} cannot be read: {error}") from error
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


def _below(name: str) -> tuple[str, ...] | None:
    """A member's place below what was asked for; ``None`` for a name that leads elsewhere."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        return None
    # An engine names everything below the last part of the path that was asked for.
    return tuple(parts[1:])


def _place(place: Path, below: tuple[str, ...]) -> Path:
    """The host path, which no link on the way may bend."""
    folder = place
    for part in below[:-1]:
        _no_link(folder)
        folder /= part
    if below:
        _no_link(folder)
        return folder / below[-1]
    return place


def _no_link(folder: Path) -> None:
    if folder.is_symlink():
        raise UsageError(f"copy_out: {folder} is a symbolic link", hint="copy to a folder of its own")


def _stays(below: tuple[str, ...], target: str) -> bool:
    """Whether a symbolic link leads to a place within the copy, whatever other links are on its way."""
    if not below or not target or target.startswith("/") or "\0" in target:
        return False
    parts = [part for part in target.split("/") if part not in ("", ".")]
    up = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    # Behind a name, ".." would be the parent of wherever that name leads.
    return up < len(below) and ".." not in parts[up:]


def _write(target: Path, file: IO[bytes], mode: int) -> None:
    # A link in its place is replaced and not followed.
    with contextlib.suppress(FileNotFoundError):
        if target.is_symlink() or not target.is_dir():
            target.unlink()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        shutil.copyfileobj(file, out, _PIECE)
    target.chmod(mode & 0o777 | 0o600)
