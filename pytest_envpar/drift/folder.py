"""Image layers and other folders of this machine: whole as manifests, or looked into at single paths."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, cast

from pytest_envpar.drift import manifest
from pytest_envpar.drift.inside import files, scan
from pytest_envpar.drift.model import NotCompared
from pytest_envpar.drift.records import HARDLINK, KIND, PATH
from pytest_envpar.errors import EnvparError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pytest_envpar.drift.layers import Layer
    from pytest_envpar.drift.manifest import Manifest
    from pytest_envpar.drift.records import Record


class UnreadableError(EnvparError):
    """The folder cannot be read, or needs a feature of the overlay that is not followed: take another route."""

    code = "unreadable"


def folder_manifest(root: Path, *, layer: bool, max_entries: int = manifest.MAX_ENTRIES) -> Manifest:
    """Everything in a folder.

    Args:
        root: The folder (host).
        layer: Whether it is a layer of an overlay, with its marks of what is hidden below.

    Raises:
        UnreadableError: It cannot be read this way.
        ManifestError: It holds too much.
    """
    _check_names()
    found = scan.Scan(os.fspath(root), layer=layer, limit=max_entries)
    try:
        return manifest.write(
            _records(found),
            layer=layer,
            max_entries=max_entries,
            notes=lambda: [NotCompared(path, reason) for path, reason in found.notes],
        )
    except scan.LimitError as error:
        raise manifest.too_many(max_entries) from error
    except (OSError, scan.UnsupportedError) as error:
        raise UnreadableError(f"{root}: {error}") from error


class FolderLayer:
    """A layer of an image that is looked into only where something above it differs.

    Nothing of it is read before it is asked for. The content of a layer never changes.

    Args:
        root: The layer's folder (host).

    Raises:
        UnreadableError: As :func:`folder_manifest`; also while it is looked into.
    """

    layer = True

    def __init__(self, root: Path) -> None:
        _check_names()
        self._root = os.fspath(root)
        self._stats: list[Record] | None = None
        self._notes: list[NotCompared] = []

    @property
    def count(self) -> int:
        """See :class:`~pytest_envpar.drift.layers.Layer`; a great number, for it is not counted."""
        return manifest.MAX_ENTRIES

    def records(self) -> Iterator[Record]:
        """See :class:`~pytest_envpar.drift.layers.Layer`."""
        return _records(scan.Scan(self._root, layer=True))

    def get(self, path: str) -> Record | None:
        """See :class:`~pytest_envpar.drift.layers.Layer`."""
        try:
            row, notes = scan.look(self._root, path)
        except (OSError, scan.UnsupportedError) as error:
            raise UnreadableError(f"{self._root}: {error}") from error
        self._notes += [NotCompared(path, reason) for _, reason in notes]
        if row is None:
            return None
        made = cast("Record", tuple(row[:8]))
        if not made[HARDLINK]:
            return made
        group = dict(self.links()).get(path, "")
        return cast("Record", (*made[:HARDLINK], group, *made[HARDLINK + 1 :]))

    def below(self, path: str) -> Iterator[Record]:
        """See :class:`~pytest_envpar.drift.layers.Layer`."""
        made = self.get(path)
        if made is None or made[KIND][0] not in "dD":
            return
        groups = dict(self.links())
        for row in scan.Scan(self._root + path.rstrip("/"), layer=True):
            if row[PATH] != "/":
                where = path.rstrip("/") + row[PATH]
                yield cast("Record", (where, *row[1:HARDLINK], groups.get(where, ""), *row[HARDLINK + 1 : 8]))

    def links(self) -> list[tuple[str, str]]:
        """See :class:`~pytest_envpar.drift.layers.Layer`: a walk without reading, at the first time."""
        if self._stats is None:
            self._stats = [
                made for made in _records(scan.Scan(self._root, layer=True, read=False)) if made[HARDLINK]
            ]
            names: dict[str, int] = {}
            for made in self._stats:
                names[made[HARDLINK]] = names.get(made[HARDLINK], 0) + 1
            self._stats = [made for made in self._stats if names[made[HARDLINK]] > 1]
        return [(made[PATH], made[HARDLINK]) for made in self._stats]

    def may_be_linked(self, higher: Sequence[Layer]) -> bool:
        """See :class:`~pytest_envpar.drift.layers.Layer`."""
        for layer in higher:
            if isinstance(layer, FolderLayer):
                return True  # it would have to be read whole
            for made in layer.records():
                try:
                    status = files.status(self._root, made[PATH])
                except OSError as error:
                    raise UnreadableError(f"{self._root}: {error}") from error
                if status is None:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    if made[KIND][0] not in "di":
                        return True
                elif status.st_nlink > 1:
                    return True
        return False

    def notes(self) -> tuple[NotCompared, ...]:
        """See :class:`~pytest_envpar.drift.layers.Layer`."""
        return tuple(self._notes)


def _check_names() -> None:
    if sys.getfilesystemencoding().lower() != "utf-8":
        raise UnreadableError(f"names are read as {sys.getfilesystemencoding()} here, which loses some")


def _records(found: scan.Scan) -> Iterator[Record]:
    for row in found:
        yield cast("Record", tuple(row[:8]))
