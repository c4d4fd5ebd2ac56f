"""Alpine's packages: ``/lib/apk/db/installed``, ``/usr/lib/apk/db/installed`` in newer releases.

The format is apk-tools' own (https://wiki.alpinelinux.org/wiki/Apk_spec, "Installed database"): paragraphs of lines
with a letter and a colon. ``F`` names a folder, ``R`` a file in it, ``Z`` what was shipped there.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from pytest_envpar.drift.model import Package
from pytest_envpar.drift.packages.base import MAX_DATABASE, MAX_PACKAGES, Owned, lines, normal, word

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_envpar.drift.packages.base import Reader

_FOLDERS = ("/lib/apk/db", "/usr/lib/apk/db")
_FILES = ("installed", "lock", "scripts.tar", "scripts.tar.gz", "triggers")
_HASHES = {"Q1": ("sha1", 20), "Q2": ("sha256", 32)}


class Apk:
    """Alpine and what is made of it."""

    ecosystem = "apk"

    def installed(self, tree: Reader, hints: Sequence[str]) -> Iterable[Package]:  # noqa: ARG002
        """One package for each paragraph with a name and a version."""
        count = 0
        for folder in _FOLDERS:
            origin = f"{folder}/installed"
            for package in _packages(tree.read(origin, MAX_DATABASE) or b"", origin):
                count += 1
                if count > MAX_PACKAGES:
                    return
                yield package

    def owned(self, tree: Reader, packages: Sequence[Package], wanted: frozenset[str]) -> Iterable[Owned]:
        """In one pass over each database."""
        for origin in sorted({package.origin for package in packages}):
            known = {(each.name, each.version): each for each in packages if each.origin == origin}
            yield from _owned(tree.read(origin, MAX_DATABASE) or b"", known, wanted)

    def records(self, path: str) -> str | None:
        """All of it is about all packages."""
        folder, _, name = path.rpartition("/")
        if path in _FOLDERS or (folder in _FOLDERS and name in _FILES):
            return ""
        return "" if path == "/etc/apk/world" else None


def _packages(data: bytes, origin: str) -> Iterator[Package]:
    name = version = ""
    for line in lines(data):
        if line.startswith("P:"):
            name = word(line[2:])
        elif line.startswith("V:"):
            version = word(line[2:])
        elif not line:
            if name and version:
                yield Package("apk", name, version, origin)
            name = version = ""
    if name and version:
        yield Package("apk", name, version, origin)


def _owned(data: bytes, known: dict[tuple[str, str], Package], wanted: frozenset[str]) -> Iterator[Owned]:
    name = version = folder = path = ""
    package: Package | None = None
    digest = ""
    for line in lines(data):
        kind, value = line[:2], line[2:]
        if path and kind in ("F:", "R:", "M:", "") and package is not None:
            yield Owned(path, package, digest, path.startswith("/etc/"))
            path = digest = ""
        if kind == "P:":
            name = word(value)
        elif kind == "V:":
            version = word(value)
        elif kind == "F:":
            package = known.get((name, version))
            folder = normal("/" + value)
            path = folder if folder in wanted else ""
        elif kind == "R:":
            full = normal(f"{folder}/{value}") if folder else ""
            path = full if full in wanted else ""
        elif kind == "Z:" and path:
            digest = _digest(value)
        elif not line:
            name = version = folder = path = ""
            package = None
    if path and package is not None:
        yield Owned(path, package, digest, path.startswith("/etc/"))


def _digest(value: str) -> str:
    name, size = _HASHES.get(value[:2], ("", 0))
    try:
        raw = base64.b64decode(value[2:].encode("ascii", "replace"), validate=True)
    except (binascii.Error, ValueError):
        return ""
    return f"{name}:{raw.hex()}" if name and len(raw) == size else ""
