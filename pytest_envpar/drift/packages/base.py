"""What a package format is, and the reading that all of them share."""

from __future__ import annotations

import dataclasses
import posixpath
from typing import TYPE_CHECKING, Protocol

from pytest_envpar.drift.tree import TooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_envpar.drift.model import Package
    from pytest_envpar.drift.tree import Tree

MAX_DATABASE = 512 << 20
"""Bytes of a database in one file: a large server's rpm database has 300 MB."""
MAX_LIST = 64 << 20
"""Bytes of a file that lists what one package owns."""
MAX_METADATA = 1 << 20
"""Bytes of a file that describes one package."""
MAX_PACKAGES = 200_000
"""Packages of one format on one side; what is beyond is not listed."""
MAX_TEXT = 500
"""Characters of a name or version."""


class Reader:
    """A tree as the parsers see it: what is too large is absent, and noted.

    Keeps the last file, because several questions are asked of one database.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._last: tuple[str, bytes | None] = ("", None)
        self.too_large: list[str] = []

    def read(self, path: str, limit: int) -> bytes | None:
        """Up to ``limit`` bytes of a regular file; None where there is none, or a longer one."""
        if self._last[0] != path:
            try:
                self._last = (path, self._tree.read(path, limit))
            except TooLargeError:
                self.too_large.append(path)
                self._last = (path, None)
        data = self._last[1]
        return None if data is None or len(data) > limit else data

    def list(self, folder: str) -> tuple[str, ...]:
        """The names in a folder, sorted; none where there is no folder."""
        try:
            return self._tree.list(folder)
        except TooLargeError:
            self.too_large.append(folder)
            return ()


@dataclasses.dataclass(frozen=True, slots=True)
class Owned:
    """A path that belongs to a package.

    Args:
        digest: What the package shipped there, as ``sha256:HEX``, ``sha1:HEX`` or ``md5:HEX``; empty if the format does
            not say.
        config: The package means this file to be edited.
    """

    path: str
    package: Package
    digest: str = ""
    config: bool = False


class PackageFormat(Protocol):
    """One kind of package database.

    Nothing here raises for what a file contains: what cannot be read is not listed.
    """

    @property
    def ecosystem(self) -> str:
        """A short name: ``dpkg``, ``pip``, …"""

    def installed(self, tree: Reader, hints: Sequence[str], /) -> Iterable[Package]:
        """The packages of a side.

        Args:
            hints: Paths that differ: they tell of databases in places where nobody would look for them.
        """

    def owned(self, tree: Reader, packages: Sequence[Package], wanted: frozenset[str], /) -> Iterable[Owned]:
        """The paths among ``wanted`` that belong to ``packages``, as the database spells them; streamed."""

    def records(self, path: str, /) -> str | None:
        """Whether ``path`` is part of the database: the name of the package it is about, empty if it is about all of
        them; None if it is none."""


# A merged /usr: databases have the old spelling, the file system the new one.
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32")
_MOVED = {"/var/run/": "/run/", "/var/lock/": "/run/lock/"}


def spellings(path: str) -> tuple[str, ...]:
    """``path`` and how else a database may spell it: ``/usr/bin/env`` is ``/bin/env`` on a system with merged /usr."""
    first, _, rest = path[1:].partition("/")
    if first in _MERGED:
        return path, f"/usr{path}"
    if first == "usr" and rest.partition("/")[0] in _MERGED:
        return path, f"/{rest}"
    for old, new in _MOVED.items():
        if path.startswith(new):
            return path, old + path[len(new) :]
        if path.startswith(old):
            return path, new + path[len(old) :]
    return (path,)


def text(data: bytes) -> str:
    """Bytes from a side as the text that paths are made of."""
    return data.decode("utf-8", "surrogateescape")


def word(value: object) -> str:
    """A name or version from a side as one bounded line; empty if it is none."""
    if not isinstance(value, str):
        return ""
    line = value.strip()
    return "" if len(line) > MAX_TEXT or "\n" in line or "\0" in line else line


def lines(data: bytes) -> Iterator[str]:
    """The lines of a file without holding all of them as text; only ``\\n`` ends one."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", start)
        if end < 0:
            end = len(data)
        yield text(data[start:end])
        start = end + 1


def normal(path: str) -> str:
    """An absolute path of a side without ``.``, ``..`` and doubled slashes; empty if it is none."""
    if not path.startswith("/") or "\0" in path:
        return ""
    return posixpath.normpath("/" + path.lstrip("/"))


def folders_named(hints: Iterable[str], *names: str) -> set[str]:
    """The outermost folder called one of ``names`` above or at each of the paths."""
    found = set()
    marks = [f"/{name}/" for name in names]
    for path in hints:
        probe = path + "/"
        ends = [at + len(mark) - 1 for mark in marks if (at := probe.find(mark)) >= 0]
        if ends:
            found.add(probe[: min(ends)])
    return found
