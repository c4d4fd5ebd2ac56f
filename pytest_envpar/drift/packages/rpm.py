"""RPM's packages: headers (https://rpm-software-management.github.io/rpm/manual/format_header.html) in a database.

Where the database is and how it keeps them is :mod:`~pytest_envpar.drift.packages.rpmdb`'s subject.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pytest_envpar.drift.model import Package
from pytest_envpar.drift.packages import rpmdb
from pytest_envpar.drift.packages.base import MAX_PACKAGES, Owned, normal, text, word

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_envpar.drift.packages.base import Reader

_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH = 1000, 1001, 1002, 1003, 1022
_OLD_PATHS, _DIGESTS, _FLAGS, _INDEXES, _BASES, _FOLDERS, _ALGORITHM = (
    1027,
    1035,
    1037,
    1116,
    1117,
    1118,
    5011,
)
_CONFIG, _GHOST = 1, 64
_HASHES = {1: ("md5", 32), 2: ("sha1", 40), 8: ("sha256", 64)}
_MAX_TAGS = 65_536
_MAX_COUNT = 1_000_000


class Rpm:
    """Fedora, RHEL, SUSE and what is made of them."""

    ecosystem = "rpm"

    def installed(self, tree: Reader, hints: Sequence[str]) -> Iterable[Package]:  # noqa: ARG002
        """One package for each header; keys are packages to RPM, not to us."""
        count = 0
        for origin, blob in rpmdb.headers(tree):
            package = _package(Header(blob), origin)
            if package is not None:
                count += 1
                if count > MAX_PACKAGES:
                    return
                yield package

    def owned(self, tree: Reader, packages: Sequence[Package], wanted: frozenset[str]) -> Iterable[Owned]:
        """In one pass over the database."""
        known = set(packages)
        if not known:
            return
        for origin, blob in rpmdb.headers(tree):
            header = Header(blob)
            package = _package(header, origin)
            if package is not None and package in known:
                yield from _owned(header, package, wanted)

    def records(self, path: str) -> str | None:
        """All of it is about all packages."""
        return "" if rpmdb.is_part(path) else None


class Header:
    """One header. Tags that are damaged, too large or of another type are absent."""

    def __init__(self, blob: bytes) -> None:
        self._tags: dict[int, tuple[int, int, int]] = {}
        self._store = b""
        if len(blob) < 8:
            return
        number, size = struct.unpack_from(">II", blob)
        start = 8 + 16 * number
        if number > _MAX_TAGS or start + size > len(blob):
            return
        self._store = blob[start : start + size]
        for at in range(8, start, 16):
            tag, kind, offset, count = struct.unpack_from(">IIII", blob, at)
            self._tags.setdefault(tag, (kind, offset, count))

    def strings(self, tag: int) -> list[str]:
        """A string or an array of strings."""
        kind, offset, count = self._tags.get(tag, (0, 0, 0))
        if kind not in (6, 8, 9) or count > _MAX_COUNT:
            return []
        found = []
        for _ in range(1 if kind == 6 else count):
            end = self._store.find(b"\0", offset)
            if end < 0:
                break
            found.append(text(self._store[offset:end]))
            offset = end + 1
        return found

    def numbers(self, tag: int) -> tuple[int, ...]:
        """An array of 32-bit numbers."""
        kind, offset, count = self._tags.get(tag, (0, 0, 0))
        if kind != 4 or count > _MAX_COUNT or offset + 4 * count > len(self._store):
            return ()
        return struct.unpack_from(f">{count}I", self._store, offset)


def _package(header: Header, origin: str) -> Package | None:
    name, version, release = (
        word(next(iter(header.strings(tag)), "")) for tag in (_NAME, _VERSION, _RELEASE)
    )
    if not name or not version or name == "gpg-pubkey":
        return None
    epoch = header.numbers(_EPOCH)
    full = f"{epoch[0]}:{version}-{release}" if epoch and epoch[0] else f"{version}-{release}"
    arch = word(next(iter(header.strings(_ARCH)), ""))
    return Package("rpm", name, full, f"{origin}#{arch}" if arch else origin)


def _owned(header: Header, package: Package, wanted: frozenset[str]) -> Iterator[Owned]:
    digests, flags = header.strings(_DIGESTS), header.numbers(_FLAGS)
    algorithm = (*header.numbers(_ALGORITHM), 1)[0]
    name, size = _HASHES.get(algorithm, ("", 0))
    for index, path in enumerate(_paths(header)):
        if path not in wanted:
            continue
        flag = flags[index] if index < len(flags) else 0
        digest = digests[index] if index < len(digests) else ""
        good = bool(name) and len(digest) == size and not flag & _GHOST
        yield Owned(path, package, f"{name}:{digest}" if good else "", bool(flag & _CONFIG))


def _paths(header: Header) -> Iterator[str]:
    bases = header.strings(_BASES)
    if not bases:
        yield from header.strings(_OLD_PATHS)
        return
    folders = header.strings(_FOLDERS)
    for base, index in zip(bases, header.numbers(_INDEXES), strict=False):
        yield normal(folders[index] + base) if index < len(folders) else ""
