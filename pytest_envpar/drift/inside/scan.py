"""One pass over a file system: what is there, and the digest of every file.

Runs inside a container, where its text is the program, and on the host over the folders of image layers. Rows are the
records of ``drift/records.py`` with a ninth field, ``inode:ctime``: equal in two containers of one engine for a file
that both have from the same layer, so that it need not be read.

Nothing but regular files is ever opened, links are never followed, and every folder is entered from the one above, so
that nothing that moves meanwhile leads outside. Inside a container it answers requests, one JSON object a line; its
answers are frames: one letter, the length in four bytes, and fields that each end with a zero byte.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import struct
import sys
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future, ThreadPoolExecutor

    Row = list[Any]
    Source = tuple[Row, Future[str] | None]
    Names = list[tuple[str, os.DirEntry[str]]]

SPARSE_FROM = 1 << 30
"""From this size on, blocks of zeros do not count: a file of 2 TiB may be all holes."""
SPARSE_BLOCK = 1 << 16

_SMALL = 1 << 16
_PIECE = 1 << 20
_PENDING = 48
_ATTEMPTS = 3
_FRAME = 1 << 16
_FEW = 50
_KEPT_XATTRS = ("user.", "security.capability", "system.posix_acl_")
_NOT_KEPT = ("user.overlay.",)
_OVERLAY = ("trusted.overlay.", "user.overlay.")
_EMPTY = hashlib.sha256(b"").hexdigest()
_ZEROS = bytes(SPARSE_BLOCK)
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LETTERS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
}


class UnsupportedError(Exception):
    """A layer that uses a feature of the kernel's overlay that is not followed here."""


class LimitError(Exception):
    """There are more entries than may be."""


class Scan:
    """One pass over ``root``. The iterator may be used once.

    Args:
        root: A folder.
        layer: Whether it is a layer of an overlay, in which devices 0/0 and an attribute hide what is below.
        read: Whether files are read; if not, their digests are empty.
        skip: Paths below ``root`` that are left out, with everything below them.
        limit: LimitError after so many entries; 0 for no limit.
    """

    def __init__(
        self, root: str, layer: bool = False, read: bool = True, skip: Iterable[str] = (), limit: int = 0
    ) -> None:
        self.notes: list[tuple[str, str]] = []
        """Path and reason of what was found and not read."""
        self._root = root
        self._layer = layer
        self._read = read
        self._skip = frozenset(skip)
        self._limit = limit
        self._count = 0
        self._seen: dict[tuple[int, int], tuple[str, Source]] = {}
        self._device = 0
        self._pending: deque[tuple[Row, Source | None]] = deque()
        self._pool: ThreadPoolExecutor | None = None

    def __iter__(self) -> Iterator[Row]:
        """The rows in tree order, the root first."""
        top = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack: list[tuple[int, str, Names]] = []
        try:
            status = os.fstat(top)
            self._device = status.st_dev
            self._pending.append((self._directory("/", status, top), None))
            stack.append((top, "", self._names(top, "/")))
            while stack:
                folder, prefix, names = stack[-1]
                if not names:
                    stack.pop()
                    os.close(folder)
                    continue
                name, entry = names.pop()
                path = prefix + "/" + name
                if path in self._skip:
                    continue
                below = self._one(folder, path, name, entry)
                if below is not None:
                    stack.append((below, path, self._names(below, path)))
                while self._pending and (self._pending[0][1] is None or len(self._pending) > _PENDING):
                    yield self._finished()
            while self._pending:
                yield self._finished()
        finally:
            for folder, _, _ in stack:
                os.close(folder)
            if self._pool is not None:
                self._pool.shutdown(wait=True)

    def single(self, path: str) -> Row | None:
        """The row of one path alone."""
        folder = _folder(self._root, path.split("/")[1:-1])
        if folder is None:
            return None
        try:
            name = path.rpartition("/")[2]
            if not name:
                return self._directory("/", os.fstat(folder), folder)
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return None
            self._device = status.st_dev
            below = self._entry(folder, path, name, status)
            if below is not None:
                os.close(below)
            return self._finished() if self._pending else None
        finally:
            os.close(folder)
            if self._pool is not None:
                self._pool.shutdown(wait=True)

    def _names(self, folder: int, path: str) -> Names:
        try:
            with os.scandir(folder) as entries:
                # A folder of millions is refused before it fills the memory.
                some = entries if not self._limit else islice(entries, self._limit + 1)
                names = sorted(((entry.name, entry) for entry in some), key=_name, reverse=True)
        except OSError as error:
            self.notes.append((path, _reason(error)))
            return []
        if self._limit and len(names) > self._limit:
            raise LimitError("more than %d files and folders" % self._limit)
        return names

    def _one(self, folder: int, path: str, name: str, entry: os.DirEntry[str]) -> int | None:
        """Remember one entry; returns the descriptor of a folder that has to be entered."""
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.notes.append((path, _reason(error)))
            return None
        self._count += 1
        if self._limit and self._count > self._limit:
            raise LimitError("more than %d files and folders" % self._limit)
        return self._entry(folder, path, name, status)

    def _entry(self, folder: int, path: str, name: str, status: os.stat_result) -> int | None:
        letter = _LETTERS[stat.S_IFMT(status.st_mode)]
        if letter == "d":
            return self._enter(folder, path, name, status)
        if letter == "f":
            self._file(folder, path, name, status)
            return None
        detail = ""
        if letter == "l":
            try:
                detail = os.readlink(name, dir_fd=folder)
            except OSError:
                return None
            kind = "l777"
        elif letter in "cb":
            if self._layer and letter == "c" and status.st_rdev == 0:
                self._add(path, "w", status, "")
                return None
            detail = "%d:%d" % (os.major(status.st_rdev), os.minor(status.st_rdev))
            kind = "%s%o" % (letter, status.st_mode & 0o7777)
        else:
            kind = "%s%o" % (letter, status.st_mode & 0o7777)
        self._add(path, kind, status, detail, xattrs=_packed(self._xattrs(folder, path, name)))
        return None

    def _enter(self, folder: int, path: str, name: str, status: os.stat_result) -> int | None:
        if status.st_dev != self._device:
            # Something is mounted there. What is mounted is told by others; here it is only not entered.
            self.notes.append((path, "something else is mounted there"))
            return None
        try:
            below = _open(name, _OPEN_DIR, folder)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                self.notes.append((path, _reason(error)))
                self._add(path, "d%o" % (status.st_mode & 0o7777), status, "")
            return None
        self._pending.append((self._directory(path, status, below), None))
        return below

    def _directory(self, path: str, status: os.stat_result, folder: int) -> Row:
        xattrs = _listed(folder)
        kind = "d"
        if self._layer and xattrs:
            if any(space + "redirect" in xattrs for space in _OVERLAY):
                raise UnsupportedError("%s is a renamed folder of a layer below" % path)
            if any(
                space + "opaque" in xattrs and os.getxattr(folder, space + "opaque") == b"y"
                for space in _OVERLAY
            ):
                kind = "D"
        return self._row(
            path,
            "%s%o" % (kind, status.st_mode & 0o7777),
            status,
            "",
            xattrs=_packed(_values(folder, xattrs)),
        )

    def _file(self, folder: int, path: str, name: str, status: os.stat_result) -> None:
        kind = "f%o" % (status.st_mode & 0o7777)
        link = ""
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1:
            first = self._seen.get(key)
            if first is not None:
                # The same file again, and so the same in everything but its name.
                self._pending.append(([path, None, None, None, None, first[0], None, None, None], first[1]))
                return
            link = path
        row = self._row(path, kind, status, str(status.st_size), link)
        future = None
        if not self._read:
            row[6] = _packed(self._xattrs(folder, path, name))
        else:
            future = self._start(folder, path, name, row)
        if link:
            self._seen[key] = (path, (row, future))
            self._pending.append((row, (row, future)))
        else:
            self._pending.append((row, None if future is None else (row, future)))

    def _start(self, folder: int, path: str, name: str, row: Row) -> Future[str] | None:
        """Read a file into its row, now or (a large one) in another thread."""
        for attempt in range(_ATTEMPTS):
            try:
                descriptor = _open(name, _OPEN_FILE, folder)
            except FileNotFoundError:
                return None
            except OSError as error:
                self.notes.append((path, _reason(error)))
                return None
            try:
                opened = os.fstat(descriptor)
                if not stat.S_ISREG(opened.st_mode):
                    return None
                names = _listed(descriptor)
                if names:
                    if self._layer and any(space + "metacopy" in names for space in _OVERLAY):
                        raise UnsupportedError("%s has its content in a layer below" % path)
                    row[6] = _packed(_values(descriptor, names))
                if opened.st_size > _SMALL:
                    if self._pool is None:
                        self._pool = _threads()
                    kept, descriptor = descriptor, -1
                    _fill(row, opened)
                    return self._pool.submit(_large, kept, opened)
                row[4] = digest = _small(descriptor, opened)
                if digest:
                    _fill(row, opened)
                    return None
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
            if attempt == _ATTEMPTS - 1:
                self.notes.append((path, "it was written to while it was read"))
        return None

    def _finished(self) -> Row:
        row, source = self._pending.popleft()
        if source is None:
            return row
        origin, future = source
        if future is not None:
            digest = future.result()
            if digest:
                origin[4] = digest
            elif not origin[4] and origin is row:
                self.notes.append((row[0], "it was written to while it was read"))
        if origin is not row:
            row[1:5] = origin[1:5]
            row[6:] = origin[6:]
        return row

    def _xattrs(self, folder: int, path: str, name: str) -> Sequence[tuple[str, bytes]]:
        where = self._root.rstrip("/") + path
        if len(where) > 1000:
            where = "/proc/self/fd/%d/%s" % (folder, name)
        try:
            names = os.listxattr(where, follow_symlinks=False)
            return (
                [(each, os.getxattr(where, each, follow_symlinks=False)) for each in names if kept(each)]
                if names
                else ()
            )
        except OSError:
            return ()

    def _add(self, path: str, kind: str, status: os.stat_result, detail: str, xattrs: str = "") -> None:
        self._pending.append((self._row(path, kind, status, detail, xattrs=xattrs), None))

    def _row(
        self, path: str, kind: str, status: os.stat_result, detail: str, link: str = "", xattrs: str = ""
    ) -> Row:
        return [
            path,
            kind,
            "%d:%d" % (status.st_uid, status.st_gid),
            detail,
            "",
            link,
            xattrs,
            str(status.st_mtime_ns),
            "%d:%d" % (status.st_ino, status.st_ctime_ns),
        ]


def look(root: str, path: str) -> tuple[Row | None, list[tuple[str, str]]]:
    """The row of a single path of a layer, and what could not be read; no link on the way is followed."""
    scan = Scan(root, layer=True)
    return scan.single(path), scan.notes


def status(root: str, path: str) -> os.stat_result | None:
    """What is at a single path; no link on the way is followed."""
    folder = _folder(root, path.split("/")[1:-1])
    if folder is None:
        return None
    try:
        return os.stat(path.rpartition("/")[2] or ".", dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    finally:
        os.close(folder)


def _folder(root: str, parts: Iterable[str]) -> int | None:
    """The descriptor of a folder below ``root``, entered step by step."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        try:
            below = _open(part, _OPEN_DIR, folder)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise
        finally:
            os.close(folder)
        folder = below
    return folder


def digest_of(descriptor: int, size: int) -> str:
    """sha256 of an open file's first ``size`` bytes; from SPARSE_FROM on that of its blocks that are not all zeros."""
    if size < SPARSE_FROM:
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


def _small(descriptor: int, opened: os.stat_result) -> str:
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
    return hashlib.sha256(data).hexdigest()


def _large(descriptor: int, opened: os.stat_result) -> str:
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


def _threads() -> ThreadPoolExecutor:
    # Imported where it is needed: a scan that reads nothing is over in the time that this takes.
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(max(2, min(4, os.cpu_count() or 1)))


def _fill(row: Row, opened: os.stat_result) -> None:
    """What the open file says: it may be another than the one that was listed."""
    row[1] = "f%o" % (opened.st_mode & 0o7777)
    row[3] = str(opened.st_size)


def _open(name: str, flags: int, folder: int) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    # A very deep tree: one descriptor for each folder on the way.
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return os.open(name, flags, dir_fd=folder)


def _listed(descriptor: int) -> Sequence[str]:
    try:
        return os.listxattr(descriptor)
    except OSError:
        return ()


def _values(descriptor: int, names: Sequence[str]) -> list[tuple[str, bytes]]:
    found = []
    for name in names:
        if kept(name):
            try:
                found.append((name, os.getxattr(descriptor, name)))
            except OSError:
                pass
    return found


def kept(name: str) -> bool:
    """Whether an extended attribute is part of a file, as far as it is compared."""
    # Labels of security modules belong to the container and not to its files; trusted ones are not seen inside.
    return name.startswith(_KEPT_XATTRS) and not name.startswith(_NOT_KEPT)


def _packed(pairs: Sequence[tuple[str, bytes]]) -> str:
    if not pairs:
        return ""
    return " ".join(
        "%s=%s" % (name.encode("utf-8", "surrogateescape").hex(), value.hex())
        for name, value in sorted(pairs)
    )


def _name(item: tuple[str, Any]) -> str:
    return item[0]


def _reason(error: OSError) -> str:
    return "it cannot be read: %s" % (error.strerror or error)


def mounts() -> list[tuple[str, str]]:
    """Mount points and file system types of this process, but the root's."""
    found = []
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            before, _, after = line.decode("utf-8", "surrogateescape").partition(" - ")
            target = before.split(" ")[4]
            for escape, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
                target = target.replace(escape, sign)
            if target != "/":
                found.append((target, after.split(" ")[0]))
    return found


def _send(out: BinaryIO, letter: bytes, fields: Sequence[str]) -> None:
    data = ("\0".join(fields) + "\0").encode("utf-8", "surrogateescape") if fields else b""
    out.write(letter + struct.pack(">I", len(data)) + data)


def reads_all() -> bool:
    """Whether this process may read every file: root with CAP_DAC_OVERRIDE or CAP_DAC_READ_SEARCH.

    An exec as root need not have them: a container of another user that may gain no privileges lends it none.
    """
    with open("/proc/self/status") as lines:
        rights = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    return os.geteuid() == 0 and bool(rights & 0b110)


def _scanned(out: BinaryIO, request: dict[str, Any]) -> None:
    if not reads_all():
        _send(out, b"X", ["rights", "its root may not read every file"])
        out.flush()
        return
    mounted = mounts()
    _send(out, b"M", [field for pair in mounted for field in pair])
    skip = list(request.get("skip") or ()) + [target for target, _ in mounted]
    scan = Scan("/", read=bool(request.get("read")), skip=skip, limit=int(request.get("limit") or 0))
    fields: list[str] = []
    size = 0
    for row in scan:
        fields += row
        size += len(row[0]) + 120
        if size > _FRAME:
            _send(out, b"R", fields)
            fields, size = [], 0
    _send(out, b"R", fields)
    _send(out, b"N", [field for pair in scan.notes for field in pair])
    _send(out, b"E", [])
    out.flush()


def _digests(out: BinaryIO, paths: Sequence[str]) -> None:
    """Digests of single files, each path with its digest or the reason why there is none."""
    found = map(_digest, paths) if len(paths) < _FEW else _threads().map(_digest, paths)
    fields: list[str] = []
    for path, (digest, reason) in zip(paths, found):
        fields += [path, digest, reason]
        if len(fields) > 600:
            _send(out, b"D", fields)
            fields = []
    _send(out, b"D", fields)
    _send(out, b"E", [])
    out.flush()


def _digest(path: str) -> tuple[str, str]:
    try:
        parts = path.split("/")[1:]
        folder = _folder("/", parts[:-1])
        if folder is None:
            return "", "it was gone when it was read"
        try:
            descriptor = _open(parts[-1], _OPEN_FILE, folder)
        finally:
            os.close(folder)
    except OSError as error:
        return "", _reason(error)
    opened = os.fstat(descriptor)
    if not stat.S_ISREG(opened.st_mode):
        os.close(descriptor)
        return "", "it became something else while it was read"
    digest = _large(descriptor, opened)
    return digest, "" if digest else "it was written to while it was read"


def main() -> None:
    """Answer requests until there are no more."""
    source, out = sys.stdin.buffer, sys.stdout.buffer
    for line in source:
        try:
            request = json.loads(line.decode("ascii"))
            if "digests" in request:
                _digests(out, request["digests"])
            else:
                _scanned(out, request)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other side has to know
            _send(out, b"X", [type(error).__name__, str(error)])
            out.flush()


if __name__ == "__main__":
    main()
