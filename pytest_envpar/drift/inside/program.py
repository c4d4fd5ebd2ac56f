"""What runs inside a container: it answers requests about the container's files.

Its text, with those of the modules that it needs, is the argument of a Python there. Requests and answers are frames:
one letter, the length in four bytes, and fields that each end with a zero byte.

    H   the first word: empty, or why not every file can be read from here
    S   request: list everything; whether files are read (1 or nothing), limit of entries, since when files are the
        container's own (nanoseconds or nothing), paths that are left out
    F   request: list what is in some folders, and not below; limit of entries, how many paths are left out, those, the
        folders
    D   request: look at these paths
    M   answer to S and F: where something is mounted, and its file system
    R   answer to S and F: rows of nine fields (see ``scan.py``), none of a file with several names
    L   answer to S and F: rows, some of which are
    N   answer to S and F: path and reason of what was not read
    P   answer to D: path, digest, extended attributes and the reason why there is no digest
    E   the end of an answer
    X   the end of it all: the kind of an error, and what it says

A frame of rows ends where its next path says so and not after so many rows: where two containers have the same files,
they send the same frames, whatever else differs.
"""

from __future__ import annotations

import os
import stat
import struct
import sys

from pytest_envpar.drift.inside import digests, files
from pytest_envpar.drift.inside.scan import Scan

TYPE_CHECKING = False  # as in `typing`, which takes as long to import as some hundred files to look at
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import BinaryIO, Optional

    from pytest_envpar.drift.inside.scan import Row

_FRAME = 1 << 20
_FEW = 50
_READ_ALL = 0b110


class Answerer:
    """Answers requests about the files below a root.

    Args:
        root: ``/``, or where the root of another container is seen.
        process: The process whose mounts count, as a folder of ``/proc``.
        folder: The root as that process sees it, if it is not its own.
    """

    def __init__(self, root: str, process: str, source: BinaryIO, out: BinaryIO, folder: str = "") -> None:
        self._root = root
        self._folder = folder
        self._process = process
        self._source = source
        self._out = out

    def answer(self) -> None:
        """Until there are no more requests."""
        self._send(b"H", [self._closed()])
        self._out.flush()
        while True:
            header = self._source.read(5)
            if len(header) < 5:
                return
            (size,) = struct.unpack(">I", header[1:])
            fields = self._source.read(size).decode("utf-8", "surrogateescape").split("\0")[:-1]
            try:
                if header[:1] == b"S":
                    born = int(fields[2]) if fields[2] else None
                    self._list(bool(fields[0]), int(fields[1]), born, fields[3:])
                elif header[:1] == b"F":
                    start = 2 + int(fields[1])
                    self._list_folders(int(fields[0]), fields[2:start], fields[start:])
                else:
                    self._look(fields)
            except Exception as error:  # noqa: BLE001 - whatever it is, the other side has to know
                self._send(b"X", [type(error).__name__, str(error)])
            self._out.flush()

    def _closed(self) -> str:
        """Why not every file can be read from here, if so.

        A process of root need not have the rights: a container of another user that may gain no privileges lends it
        none.
        """
        with open("/proc/self/status") as lines:
            rights = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
        if os.geteuid() != 0 or not rights & _READ_ALL:
            return "its root may not read every file"
        try:
            os.close(files.open_root(self._root))
        except OSError as error:
            return "its files %s" % files.reason(error).replace("it cannot", "cannot")
        return ""

    def _list(self, read: bool, limit: int, born: Optional[int], skip: Sequence[str]) -> None:
        mounted = self._mounted()
        scan = Scan(self._root, read=read, skip=[*skip, *mounted], limit=limit, born=born)
        self._rows(scan, scan)

    def _list_folders(self, limit: int, skip: Sequence[str], paths: Sequence[str]) -> None:
        mounted = self._mounted()
        # In an overlay, and only there, a folder that is the topmost one of the same layer has the same below it.
        overlay = mounted.get("/") == "overlay"
        scan = Scan(self._root, read=False, skip=[*skip, *mounted], limit=limit, folders=overlay)
        self._rows(scan, (row for path in paths for row in scan.children(path)))

    def _rows(self, scan: Scan, rows: Iterable[Row]) -> None:
        """Tell rows as they come, and then what was not read."""
        letter = b"R"
        fields: list[str] = []
        size = 0
        for row in rows:
            path = row[0]
            if (row[1][0] == "d" and not len(path) % 8) or size > _FRAME:
                self._send(letter, fields)
                letter, fields, size = b"R", [], 0
            if row[5]:
                letter = b"L"
            fields += row
            size += len(path) + 100
        self._send(letter, fields)
        self._send(b"N", [field for pair in scan.notes for field in pair])
        self._send(b"E", [])

    def _mounted(self) -> dict[str, str]:
        """Tell what is mounted, but the root."""
        mounted = mounts(self._process, self._folder)
        self._send(b"M", [field for pair in mounted.items() if pair[0] != "/" for field in pair])
        return mounted

    def _look(self, paths: Sequence[str]) -> None:
        found: Iterator[tuple[str, str, str]]
        if len(paths) < _FEW:
            found = map(self._detail, paths)
        else:
            threads = digests.Threads()
            try:
                found = iter(threads.map(self._detail, paths))
            finally:
                threads.close()
        for path, (digest, xattrs, reason) in zip(paths, found):
            self._send(b"P", [path, digest, xattrs, reason])
        self._send(b"E", [])

    def _detail(self, path: str) -> tuple[str, str, str]:
        """Digest, extended attributes, and why there is no digest, of what is no folder."""
        try:
            found = files.opened(self._root, path)
            if found is not None:
                descriptor, status = found
                xattrs = files.packed(files.attributes(descriptor, files.attribute_names(descriptor)))
                digest = digests.large(descriptor, status)
                return digest, xattrs, "" if digest else "it was written to while it was read"
            status_now = files.status(self._root, path)
            if status_now is None:
                return "", "", "it was gone when it was read"
            if stat.S_ISREG(status_now.st_mode) or stat.S_ISDIR(status_now.st_mode):
                return "", "", "it became something else while it was read"
            folder = files.folder_of(self._root, path)
            if folder is None:
                return "", "", "it was gone when it was read"
            try:
                name = path.rpartition("/")[2]
                where = self._root.rstrip("/") + path
                return "", files.packed(files.attributes_at(where, folder, name)), ""
            finally:
                os.close(folder)
        except OSError as error:
            return "", "", files.reason(error)

    def _send(self, letter: bytes, fields: Sequence[str]) -> None:
        data = ("\0".join(fields) + "\0").encode("utf-8", "surrogateescape") if fields else b""
        self._out.write(letter + struct.pack(">I", len(data)) + data)


def mounts(process: str, folder: str = "") -> dict[str, str]:
    """Mount points that a process sees, and the types of their file systems: what is mounted last is on top.

    Args:
        folder: Only this one and what is below it, seen from there.
    """
    found = {}
    with open(process + "/mountinfo", "rb") as lines:
        for line in lines:
            before, _, after = line.decode("utf-8", "surrogateescape").partition(" - ")
            target = before.split(" ")[4]
            for escape, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
                target = target.replace(escape, sign)
            if (target + "/").startswith(folder + "/"):
                found[target[len(folder) :] or "/"] = after.split(" ")[0]
    return found


def main() -> None:
    """Answer about this container, or the one whose process is named; about all of it, or the folder that is named."""
    process, folder = sys.argv[1:]
    root = (process + "/root" if process else "") + folder
    Answerer(root or "/", process or "/proc/self", sys.stdin.buffer, sys.stdout.buffer, folder).answer()


if __name__ == "__main__":
    main()
