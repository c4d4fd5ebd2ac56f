"""The values that drift is made of: entries of a file system, changes between two of them, and what they mean.

Producers (a scan, a layer, a tar) give :class:`Entry` values in the order of :func:`sort_key`; the comparison makes
:class:`Change` values of two such streams; packages and policy make :class:`Finding` values of those; reports only
read. All of it is frozen and knows neither an engine nor pytest.

Paths are text and absolute, without a trailing slash: ``/usr/bin/env``; the root is ``/``. Bytes that are not UTF-8
are surrogate-escaped.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

Type = Literal["file", "directory", "link", "character", "block", "fifo", "socket"]
Kind = Literal["added", "removed", "modified"]
Attribute = Literal["content", "mode", "owner", "target", "type", "device", "xattr", "hardlink", "mtime"]
Level = Literal["noise", "file", "config", "package", "runtime"]

LEVELS: tuple[Level, ...] = ("noise", "file", "config", "package", "runtime")
"""From the lowest to the highest."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One path of a file system.

    Args:
        mode: Permissions with the set-id and sticky bits (``0o7777``), without the type.
        size: Bytes of a regular file, else 0.
        digest: sha256 of a regular file's content in hex; empty if it was not read.
        target: Where a symbolic link points to.
        device: Major and minor number of a device.
        xattrs: Names and values, sorted by name; ``security.capability`` among them.
        hardlink: The first path, in the order of :func:`sort_key`, of the file's hard links; empty for a file with one
            name.
        mtime_ns: Kept, and not compared by default.
    """

    path: str
    type: Type
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    digest: str = ""
    target: str = ""
    device: tuple[int, int] | None = None
    xattrs: tuple[tuple[str, bytes], ...] = ()
    hardlink: str = ""
    mtime_ns: int = 0


def sort_key(path: str) -> list[str]:
    """The order of paths: a directory, then all below it, then its next sibling."""
    return path.split("/")


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One path that differs between a left and a right side.

    Args:
        attributes: What differs, in the order of :data:`Attribute`; empty for an added or removed path.
        before: The left side's entry, ``None`` if the path was added.
        after: The right side's entry, ``None`` if it was removed.
    """

    path: str
    kind: Kind
    attributes: tuple[Attribute, ...] = ()
    before: Entry | None = None
    after: Entry | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ConfigChange:
    """One field of the image configuration, or one fact of the running environment, that differs.

    Args:
        field: ``user``, ``env.PATH``, ``labels.version``, ``limits.nofile``, …
        before: As text; ``None`` where the side does not have it.
    """

    field: str
    before: str | None
    after: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Package:
    """An installed package.

    Args:
        ecosystem: ``dpkg``, ``rpm``, ``apk``, ``pip``, ``npm``, ``conda``.
        name: As its database has it; pip's normalised (PEP 503).
        version: As its database has it.
        origin: Where the database has it (a folder or file), so that two installations of one package differ.
    """

    ecosystem: str
    name: str
    version: str
    origin: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class PackageChange:
    """A package that differs: one line for all of its files.

    Args:
        before: The version on the left side; ``None`` if it is not there. Equal to ``after`` if only files differ.
        files: How many paths differ that belong to it.
        tampered: Paths that differ from what the package shipped.
    """

    ecosystem: str
    name: str
    before: str | None
    after: str | None
    files: int = 0
    tampered: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class NotCompared:
    """A path that was not looked at, which is not the same as equal."""

    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What differs between two sides, before anything is said about what it means.

    Args:
        left: What the left side is called.
        route: How the answer was found: ``same-image``, ``same-layers``, ``layers``, ``upper``, ``scan``, ``export``,
            ``archive``, ``inventory``.
        why: For ``--explain``: why this route, one line for each decision.
        changes: In the order of :func:`sort_key`.
    """

    left: str
    right: str
    route: str
    changes: tuple[Change, ...] = ()
    config: tuple[ConfigChange, ...] = ()
    not_compared: tuple[NotCompared, ...] = ()
    why: tuple[str, ...] = ()
