"""Debian's packages: ``/var/lib/dpkg`` (dpkg(1), dpkg-query(1), dpkg-divert(1)).

``status`` has a paragraph for each package; images without a package manager have ``status.d`` with a file each.
``info/NAME.list`` has the paths, ``NAME.md5sums`` what was shipped, and the field ``Conffiles`` that of files meant to
be edited. A diversion says that a path of a package really lies elsewhere.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_envpar.drift.model import Package
from pytest_envpar.drift.packages.base import (
    MAX_DATABASE,
    MAX_LIST,
    MAX_METADATA,
    MAX_PACKAGES,
    Owned,
    lines,
    normal,
    word,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_envpar.drift.packages.base import Reader

_ROOT = "/var/lib/dpkg"
_INFO = f"{_ROOT}/info"
_STATUS_D = f"{_ROOT}/status.d"
_ON_DISK = (
    "installed",
    "half-installed",
    "half-configured",
    "unpacked",
    "triggers-awaited",
    "triggers-pending",
)
_MD5 = re.compile("[0-9a-f]{32}")
# Of no package, and rewritten by every change: they tell nothing that status does not tell.
_SHARED = (
    *("status", "status-old", "available", "available-old", "diversions", "diversions-old", "statoverride"),
    *("statoverride-old", "lock", "lock-frontend", "arch", "arch-native", "cmethopt"),
)


class Dpkg:
    """Debian and what is made of it, ``distroless`` included."""

    ecosystem = "dpkg"

    def installed(self, tree: Reader, hints: Sequence[str]) -> Iterable[Package]:  # noqa: ARG002
        """What ``status`` and ``status.d`` say is on the disk."""
        count = 0
        for fields in _paragraphs(tree.read(f"{_ROOT}/status", MAX_DATABASE) or b""):
            package = _package(fields, "")
            if package is not None and count < MAX_PACKAGES:
                count += 1
                yield package
        for name in sorted(tree.list(_STATUS_D)):
            if name.endswith(".md5sums") or count >= MAX_PACKAGES:
                continue
            origin = f"{_STATUS_D}/{name}"
            for fields in _paragraphs(tree.read(origin, MAX_METADATA) or b""):
                package = _package(fields, origin)
                if package is not None:
                    count += 1
                    yield package
                break

    def owned(self, tree: Reader, packages: Sequence[Package], wanted: frozenset[str]) -> Iterable[Owned]:
        """From each package's own list, moved where a diversion says so."""
        diverted = _diversions(tree.read(f"{_ROOT}/diversions", MAX_LIST) or b"")
        conffiles = self._conffiles(tree, {package.name for package in packages})
        for package in packages:
            away = {old: new for old, (new, by) in diverted.items() if by != package.name}
            stem, ending = (package.origin, ".md5sums") if package.origin else ("", "")
            stem = stem or f"{_INFO}/{package.name}"
            listed = stem.startswith(_INFO)
            content = tree.read(f"{stem}.list", MAX_LIST) if listed else None
            shipped: dict[str, str] | None = None
            mine = conffiles.get(package.name, {})
            paths: Iterable[str] = (path for path in lines(content)) if content is not None else ()
            if not listed:
                shipped = _md5sums(tree.read(stem + ending, MAX_LIST) or b"")
                paths = list(shipped)
            for path in paths:
                real = away.get(path, path)
                if real not in wanted:
                    continue
                if shipped is None:
                    shipped = _md5sums(tree.read(f"{stem}.md5sums", MAX_LIST) or b"")
                md5 = mine.get(path) or shipped.get(path)
                yield Owned(real, package, f"md5:{md5}" if md5 else "", path in mine)

    def records(self, path: str) -> str | None:
        """The files of ``info`` are about the package they are named for."""
        if path.startswith(_INFO + "/"):
            return path[len(_INFO) + 1 :].rpartition(".")[0].partition(":")[0]
        if path.startswith(_STATUS_D + "/"):
            return path[len(_STATUS_D) + 1 :].removesuffix(".md5sums")
        if path in (_ROOT, _INFO, _STATUS_D) or path.startswith((f"{_ROOT}/updates", f"{_ROOT}/triggers")):
            return ""
        return "" if path.startswith(_ROOT + "/") and path[len(_ROOT) + 1 :] in _SHARED else None

    @staticmethod
    def _conffiles(tree: Reader, names: set[str]) -> Mapping[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for fields in _paragraphs(tree.read(f"{_ROOT}/status", MAX_DATABASE) or b""):
            name = fields.get("package", "").strip()
            if name in names and "conffiles" in fields:
                found[name] = dict(_conffile_lines(fields["conffiles"]))
        return found


def _package(fields: Mapping[str, str], origin: str) -> Package | None:
    name, version = word(fields.get("package")), word(fields.get("version"))
    if not name or not version or "/" in name:
        return None
    if not origin:
        state = fields.get("status", "").split()
        if len(state) != 3 or state[2] not in _ON_DISK:
            return None
        same = fields.get("multi-arch", "").strip() == "same"
        architecture = word(fields.get("architecture"))
        suffix = f":{architecture}" if same and architecture and "/" not in architecture else ""
        origin = f"{_INFO}/{name}{suffix}"
    return Package("dpkg", name, version, origin)


def _paragraphs(data: bytes) -> Iterator[dict[str, str]]:
    """Deb822 (deb822(5)): fields with lower-case names; those that nobody here reads are left out."""
    fields: dict[str, str] = {}
    last: str | None = None
    for line in lines(data):
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, None
        elif line[0] in " \t":
            if last is not None:
                fields[last] += "\n" + line
        else:
            name, colon, value = line.partition(":")
            last = name.lower() if colon and name.lower() in _FIELDS else None
            if last is not None:
                fields[last] = value
    if fields:
        yield fields


_FIELDS = frozenset(("package", "version", "status", "architecture", "multi-arch", "conffiles"))


def _conffile_lines(value: str) -> Iterator[tuple[str, str]]:
    for line in value.split("\n"):
        path, _, rest = line.strip().partition(" ")
        md5, *flags = rest.split() or [""]
        if path.startswith("/") and "obsolete" not in flags:
            yield path, md5 if _MD5.fullmatch(md5) else ""


def _md5sums(data: bytes) -> dict[str, str]:
    found = {}
    for line in lines(data):
        md5, path = line[:32], line[34:]
        if _MD5.fullmatch(md5) and line[32:34].strip() == "" and path:
            found[normal("/" + path.removeprefix("./"))] = md5
    return found


def _diversions(data: bytes) -> dict[str, tuple[str, str]]:
    """Where paths really lie, and which package keeps the path itself (``:`` is the administrator)."""
    rows = list(lines(data))
    return {rows[at]: (rows[at + 1], rows[at + 2]) for at in range(0, len(rows) - 2, 3)}
