"""One pass over a file system: what is there, and the digest of every file.

Part of the program that runs inside a container, and used on the host over the folders of image layers. Rows are the
records of ``drift/records.py`` with a ninth field, ``inode:ctime``: equal in two containers of one engine for a file
that both have from the same layer, so that it need not be read. A folder has none in a pass over everything.

Nothing but regular files is ever opened, links are never followed, and every folder is entered from the one above, so
that nothing that moves meanwhile leads outside.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from itertools import islice

from pytest_envpar.drift.inside import digests, files

TYPE_CHECKING = False  # as in `typing`, which takes as long to import as some hundred files to look at
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future
    from typing import Any, Optional

    Row = list[Any]
    Source = tuple[Row, Future[str] | None]
    Names = list[tuple[str, os.DirEntry[str]]]

_PENDING = 48
_ATTEMPTS = 3
_SECOND = 10**9
_OVERLAY = ("trusted.overlay.", "user.overlay.")
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
        read: Whether files are read; if not, their digests are empty, and so are the extended attributes of everything
            but folders: what they are can be asked of single paths.
        skip: Paths below ``root`` that are left out, with everything below them.
        limit: LimitError after so many entries; 0 for no limit.
        born: When the container was made, in nanoseconds: a file that changed since is its own, and has an
            ``inode:ctime:mark`` that no other pass gives. Two containers that change one file of their image in the
            same tick of the clock have the same inode and time for it.
        folders: Whether folders have an ``inode:ctime``, too, and files with several names ``inode:ctime:names``.
    """

    def __init__(
        self,
        root: str,
        layer: bool = False,
        read: bool = True,
        skip: Iterable[str] = (),
        limit: int = 0,
        born: Optional[int] = None,
        folders: bool = False,
    ) -> None:
        self.notes: list[tuple[str, str]] = []
        """Path and reason of what was found and not read."""
        self._root = root
        self._layer = layer
        self._read = read
        self._skip = frozenset(skip)
        self._limit = limit
        self._born = born
        self._mark = os.urandom(8).hex()
        self._folders = folders
        self._count = 0
        self._seen: dict[tuple[int, int], tuple[str, Source]] = {}
        self._device = 0
        self._pending: deque[tuple[Row, Source | None]] = deque()
        self._pool: digests.Threads | None = None
        # There are few of them, and each is the same text again.
        self._kinds: dict[int, str] = {}
        self._owners: dict[tuple[int, int], str] = {}

    def __iter__(self) -> Iterator[Row]:
        """The rows in tree order, the root first."""
        top = files.open_root(self._root)
        stack: list[tuple[int, str, Names]] = []
        pending = self._pending
        try:
            status = os.fstat(top)
            self._device = status.st_dev
            pending.append((self._directory("/", status, top), None))
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
                while pending:
                    if pending[0][1] is None:
                        yield pending.popleft()[0]
                    elif len(pending) > _PENDING:
                        yield self._finished()
                    else:
                        break
            while pending:
                yield self._finished()
        finally:
            for folder, _, _ in stack:
                os.close(folder)
            if self._pool is not None:
                self._pool.close()

    def children(self, path: str) -> Iterator[Row]:
        """The rows of what is in a folder, and of nothing below; with those of the root its own."""
        prefix = path.rstrip("/")
        try:
            folder = files.folder_of(self._root, prefix + "/")
        except OSError as error:
            self.notes.append((path, files.reason(error)))
            return
        if folder is None:
            self.notes.append((path, "it was gone when it was read"))
            return
        try:
            top = files.open_root(self._root)
            try:
                status = os.fstat(top)
                self._device = status.st_dev
                if not prefix:
                    yield self._directory("/", status, top)
            finally:
                os.close(top)
            names = self._names(folder, path)
            while names:
                name, entry = names.pop()
                if prefix + "/" + name in self._skip:
                    continue
                below = self._one(folder, prefix + "/" + name, name, entry)
                if below is not None:
                    os.close(below)
                while self._pending:
                    yield self._finished()
        finally:
            os.close(folder)

    def single(self, path: str) -> Row | None:
        """The row of one path alone."""
        folder = files.folder_of(self._root, path)
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
                self._pool.close()

    def _names(self, folder: int, path: str) -> Names:
        try:
            with os.scandir(folder) as entries:
                # A folder of millions is refused before it fills the memory.
                some = entries if not self._limit else islice(entries, self._limit + 1)
                names = sorted([(entry.name, entry) for entry in some], key=_name, reverse=True)
        except OSError as error:
            self.notes.append((path, files.reason(error)))
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
            self.notes.append((path, files.reason(error)))
            return None
        self._count += 1
        if self._limit and self._count > self._limit:
            raise LimitError("more than %d files and folders" % self._limit)
        return self._entry(folder, path, name, status)

    def _entry(self, folder: int, path: str, name: str, status: os.stat_result) -> int | None:
        kind = self._kind(status.st_mode)
        letter = kind[0]
        if letter == "f":
            self._file(folder, path, name, status, kind)
            return None
        if letter == "d":
            return self._enter(folder, path, name, status)
        detail = ""
        if letter == "l":
            try:
                detail = os.readlink(name, dir_fd=folder)
            except OSError:
                return None
            kind = "l777"
        elif letter in "cb":
            if self._layer and letter == "c" and status.st_rdev == 0:
                self._pending.append((self._row(path, "w", status, ""), None))
                return None
            detail = "%d:%d" % (os.major(status.st_rdev), os.minor(status.st_rdev))
        row = self._row(path, kind, status, detail)
        if self._read:
            row[6] = self._attributes(folder, path, name)
        self._pending.append((row, None))
        return None

    def _enter(self, folder: int, path: str, name: str, status: os.stat_result) -> int | None:
        if status.st_dev != self._device:
            # Something is mounted there. What is mounted is told by others; here it is only not entered.
            self.notes.append((path, "something else is mounted there"))
            return None
        try:
            below = files.open_below(name, files.OPEN_FOLDER, folder)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                self.notes.append((path, files.reason(error)))
                self._pending.append((self._folder(path, self._kind(status.st_mode), status), None))
            return None
        self._pending.append((self._directory(path, status, below), None))
        return below

    def _directory(self, path: str, status: os.stat_result, folder: int) -> Row:
        xattrs = files.attribute_names(folder)
        kind = self._kind(status.st_mode)
        if self._layer and xattrs:
            if any(space + "redirect" in xattrs for space in _OVERLAY):
                raise UnsupportedError("%s is a renamed folder of a layer below" % path)
            if any(
                space + "opaque" in xattrs and os.getxattr(folder, space + "opaque") == b"y"
                for space in _OVERLAY
            ):
                kind = "D" + kind[1:]
        row = self._folder(path, kind, status)
        if xattrs:
            row[6] = files.packed(files.attributes(folder, xattrs))
        return row

    def _folder(self, path: str, kind: str, status: os.stat_result) -> Row:
        row = self._row(path, kind, status, "")
        if not self._folders:
            row[8] = ""
        return row

    def _file(self, folder: int, path: str, name: str, status: os.stat_result, kind: str) -> None:
        link = ""
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1:
            first = self._seen.get(key)
            if first is not None:
                # The same file again, and so the same in everything but its name.
                self._pending.append(([path, None, None, None, None, first[0], None, None, None], first[1]))
                return
            link = path
        row = self._row(path, kind, status, str(status.st_size))
        future = self._start(folder, path, name, row) if self._read else None
        if link:
            row[5] = link
            if self._folders:
                row[8] += ":%d" % status.st_nlink
            self._seen[key] = (path, (row, future))
            self._pending.append((row, (row, future)))
        else:
            self._pending.append((row, None if future is None else (row, future)))

    def _start(self, folder: int, path: str, name: str, row: Row) -> Future[str] | None:
        """Read a file into its row, now or (a large one) in another thread."""
        for attempt in range(_ATTEMPTS):
            try:
                descriptor = files.open_below(name, files.OPEN_FILE, folder)
            except FileNotFoundError:
                return None
            except OSError as error:
                self.notes.append((path, files.reason(error)))
                return None
            try:
                opened = os.fstat(descriptor)
                if not stat.S_ISREG(opened.st_mode):
                    return None
                names = files.attribute_names(descriptor)
                if names:
                    if self._layer and any(space + "metacopy" in names for space in _OVERLAY):
                        raise UnsupportedError("%s has its content in a layer below" % path)
                    row[6] = files.packed(files.attributes(descriptor, names))
                if opened.st_size > digests.SMALL:
                    if self._pool is None:
                        self._pool = digests.Threads()
                    kept, descriptor = descriptor, -1
                    self._fill(row, opened)
                    return self._pool.submit(digests.large, kept, opened)
                row[4] = digest = digests.small(descriptor, opened)
                if digest:
                    self._fill(row, opened)
                    return None
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
            if attempt == _ATTEMPTS - 1:
                self.notes.append((path, "it was written to while it was read"))
        return None

    def _fill(self, row: Row, opened: os.stat_result) -> None:
        """What the open file says: it may be another than the one that was listed."""
        row[1] = self._kind(opened.st_mode)
        row[3] = str(opened.st_size)

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

    def _attributes(self, folder: int, path: str, name: str) -> str:
        return files.packed(files.attributes_at(self._root.rstrip("/") + path, folder, name))

    def _kind(self, mode: int) -> str:
        kind = self._kinds.get(mode)
        if kind is None:
            kind = self._kinds[mode] = "%s%o" % (_LETTERS[stat.S_IFMT(mode)], mode & 0o7777)
        return kind

    def _row(self, path: str, kind: str, status: os.stat_result, detail: str) -> Row:
        whose = (status.st_uid, status.st_gid)
        owner = self._owners.get(whose)
        if owner is None:
            owner = "%d:%d" % whose
            if len(self._owners) < 1000:
                self._owners[whose] = owner
        ident = "%d:%d" % (status.st_ino, status.st_ctime_ns)
        if self._born is not None and changed_since(status.st_ctime_ns, self._born):
            ident += ":" + self._mark
        return [
            path,
            kind,
            owner,
            detail,
            "",
            "",
            "",
            str(status.st_mtime_ns),
            ident,
        ]


def look(root: str, path: str) -> tuple[Row | None, list[tuple[str, str]]]:
    """The row of a single path of a layer, and what could not be read; no link on the way is followed."""
    scan = Scan(root, layer=True)
    return scan.single(path), scan.notes


def changed_since(ctime: int, born: int) -> bool:
    """Whether a file may have changed since. Some file systems cut times to the second, as ext4 with small inodes."""
    return ctime >= born or (ctime > born - _SECOND and not ctime % _SECOND)


def _name(item: tuple[str, os.DirEntry[str]]) -> str:
    return item[0]
