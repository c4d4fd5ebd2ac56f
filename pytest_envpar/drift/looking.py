"""Looking into a side at single paths: the files behind package databases and contents.

The cheapest way that is open, as in :mod:`~pytest_envpar.drift.produce`: the folders of its layers where they are
folders of this machine, else one pass over an archive or an export that keeps what was asked for.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_envpar.drift import tar
from pytest_envpar.drift.tree import read_file, resolve, too_large
from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_envpar.drift.model import Type
    from pytest_envpar.drift.sides import Side
    from pytest_envpar.drift.tree import Tree

MAX_KEPT_FILE = 64 << 20
"""Bytes of one file that a pass keeps."""
MAX_KEPT = 512 << 20
"""Bytes of all files that a pass keeps."""
_NAMESPACES = ("trusted.overlay.opaque", "user.overlay.opaque")
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


def tree_of(
    side: Side,
    wanted: Callable[[str], bool],
    resources: contextlib.ExitStack,
    labels: Mapping[str, str],
) -> Tree | None:
    """The files of a side; None if there is no way to them.

    Args:
        wanted: Whether the content of a path may be asked for: what a pass keeps.
        resources: Closed by the caller when it has looked; removes a container that was made for it.
        labels: For that container.

    Raises:
        EngineError: The engine failed.
        TarError: A file is broken.
    """
    folders = _folders(side)
    if folders is not None:
        return LayersTree(folders)
    if side.archive is not None:
        layers: Iterable[Iterable[bytes]] = (side.archive.tree(),)
        if side.diff_ids:
            layers = (side.archive.layer(number) for number in range(len(side.diff_ids)))
        return KeptTree(layers, wanted, layered=bool(side.diff_ids))
    if side.engine is None:
        return None
    container = side.container.id if side.container is not None else created(side, resources, labels)
    return KeptTree((side.engine.export(container),), wanted)


def _folders(side: Side) -> tuple[Path, ...] | None:
    """Folders of the layers, the topmost first."""
    if side.engine is None:
        return None
    if side.container is not None:
        own = side.engine.layer_folders(side.container.id)
        found = None if own is None else (own.upper, *own.lower)
    else:
        layers = side.engine.image_folders(side.image_id)
        found = None if layers is None else tuple(reversed(layers))
    return found if found and all(os.access(folder, os.R_OK | os.X_OK) for folder in found) else None


def created(side: Side, resources: contextlib.ExitStack, labels: Mapping[str, str]) -> str:
    """A container of an image that never runs.

    Args:
        resources: Removes it.
    """
    import contextlib

    from pytest_envpar.engine.values.create import ContainerSpec

    engine = side.engine
    assert engine is not None
    container = engine.create_container(
        ContainerSpec(image=side.image_id, entrypoint=("true",), command=(), labels=labels, network="none")
    )

    def remove() -> None:
        with contextlib.suppress(EngineError):
            engine.remove_container(container)

    resources.callback(remove)
    return container


class LayersTree:
    """Layers of an overlay as one tree.

    Args:
        folders: The layers (host), the topmost first.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._merged: dict[str, tuple[str, ...]] = {"/": tuple(map(os.fspath, folders))}

    def read(self, path: str, limit: int) -> bytes | None:
        """See :class:`~pytest_envpar.drift.tree.Tree`."""
        found = resolve(path, self._look)
        if found is None or found == "/":
            return None
        place = self._file(found)
        return None if place is None else read_file(place, path, limit)

    def list(self, folder: str) -> tuple[str, ...]:
        """See :class:`~pytest_envpar.drift.tree.Tree`."""
        found = resolve(folder, self._look)
        names: dict[str, bool] = {}
        for place in self._folder(found) if found is not None else ():
            try:
                with os.scandir(place) as entries:
                    for entry in entries:
                        if entry.name not in names:
                            names[entry.name] = not _is_whiteout(entry.stat(follow_symlinks=False))
            except OSError:
                continue
        return tuple(sorted(name for name, there in names.items() if there))

    def layer_of(self, path: str) -> int | None:
        """The number of the layer, the lowest is 0, that has a path as it is; None if none has it.

        Args:
            path: Without links on the way.
        """
        place = self._file(path)
        tops = self._merged["/"]
        found = (index for index, top in enumerate(tops) if place is not None and place == top + path)
        index = next(found, None)
        return None if index is None else len(tops) - 1 - index

    def _look(self, path: str) -> tuple[Type, str] | None:
        if self._merged.get(path):
            return "directory", ""
        place = self._file(path)
        if place is None:
            return None
        try:
            mode = os.lstat(place).st_mode
            if stat.S_ISLNK(mode):
                return "link", str(Path(place).readlink())
        except (OSError, ValueError):
            return None
        return ("directory" if self._folder(path) else "file"), ""

    def _file(self, path: str) -> str | None:
        """The topmost entry at a path whose parents are no links."""
        parent, _, name = path.rpartition("/")
        for folder in self._folder(parent or "/"):
            place = f"{folder}/{name}"
            try:
                status = os.lstat(place)
            except (OSError, ValueError):
                continue
            return None if _is_whiteout(status) else place
        return None

    def _folder(self, path: str) -> tuple[str, ...]:
        """The folders that are merged at a path, the topmost first; none if it is no folder."""
        known = self._merged.get(path)
        if known is not None:
            return known
        parent, _, name = path.rpartition("/")
        found: list[str] = []
        for folder in self._folder(parent or "/"):
            place = f"{folder}/{name}"
            try:
                status = os.lstat(place)
            except (OSError, ValueError):
                continue
            if not stat.S_ISDIR(status.st_mode):
                break
            found.append(place)
            if _is_opaque(place):
                break
        made = self._merged[path] = tuple(found)
        return made


class KeptTree:
    """What one pass over tars found and kept of them.

    Args:
        layers: The streams, the lowest first.
        wanted: Whether a path's content is kept.
        layered: Whether ``.wh.`` names are the marks of image layers.
    """

    def __init__(
        self, layers: Iterable[Iterable[bytes]], wanted: Callable[[str], bool], *, layered: bool = False
    ) -> None:
        self._children: dict[str, dict[str, None]] = {"/": {}}
        self._links: dict[str, str] = {}
        self._contents: dict[str, bytes] = {}
        self._large: set[str] = set()
        self._room = MAX_KEPT
        for pieces in layers:
            self._pass(pieces, wanted, layered)

    def read(self, path: str, limit: int) -> bytes | None:
        """See :class:`~pytest_envpar.drift.tree.Tree`; a file that was not kept counts as too large."""
        found = resolve(path, self._look)
        if found is None:
            return None
        data = self._contents.get(found)
        if found in self._large or (data is not None and len(data) > limit):
            raise too_large(path, limit)
        return data

    def list(self, folder: str) -> tuple[str, ...]:
        """See :class:`~pytest_envpar.drift.tree.Tree`."""
        found = resolve(folder, self._look)
        return () if found is None else tuple(sorted(self._children.get(found, ())))

    def _look(self, path: str) -> tuple[Type, str] | None:
        parent, _, name = path.rpartition("/")
        if name not in self._children.get(parent or "/", ()):
            return None
        if path in self._links:
            return "link", self._links[path]
        return ("directory" if path in self._children else "file"), ""

    def _pass(self, pieces: Iterable[bytes], wanted: Callable[[str], bool], layered: bool) -> None:
        source = tar.Source(pieces)
        above: set[str] = set()
        for member in tar.members(source):
            path = tar.tree_path(member.name)
            folder, _, name = path.rpartition("/")
            padded = -(-member.stored // 512) * 512
            if layered and name.startswith(_WHITEOUT):
                source.skip(padded)
                hidden = f"{folder}/{name[len(_WHITEOUT) :]}"
                targets = [f"{folder}/{each}" for each in self._children.get(folder or "/", ())]
                for target in targets if name == _OPAQUE else [hidden]:
                    self._remove(target, above)
                continue
            above.add(path)
            if path != "/":
                self._add(path, member.kind == b"5")
            if member.kind == b"2":
                self._links[path] = os.fsdecode(member.target)
            elif member.kind == b"1":
                self._same(path, tar.tree_path(member.target))
            elif member.kind in (b"0", b"\0", b"7") and member.segments is None and wanted(path):
                if member.stored <= min(MAX_KEPT_FILE, self._room):
                    data = b"".join(source.take(padded))[: member.stored]
                    self._room -= len(data)
                    self._contents[path] = data
                    continue
                self._large.add(path)
            source.skip(padded)
        source.drain()

    def _add(self, path: str, folder: bool) -> None:
        at = ""
        for name in path[1:].split("/"):
            self._children.setdefault(at or "/", {})[name] = None
            self._links.pop(at, None)
            at += f"/{name}"
        for known in (self._links, self._contents):
            known.pop(path, None)
        self._large.discard(path)
        if folder:
            self._children.setdefault(path, {})
        else:
            self._children.pop(path, None)

    def _same(self, path: str, target: str) -> None:
        """A hard link."""
        if target in self._contents:
            self._contents[path] = self._contents[target]
        if target in self._large:
            self._large.add(path)

    def _remove(self, path: str, above: set[str]) -> None:
        """What a mark of a layer hides of the layers below; not what the same layer has."""
        if path in above:
            return
        for name in list(self._children.pop(path, ())):
            self._remove(f"{path}/{name}", above)
        parent, _, name = path.rpartition("/")
        if path not in self._children:
            self._children.get(parent or "/", {}).pop(name, None)
        for known in (self._links, self._contents):
            known.pop(path, None)


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(place: str) -> bool:
    for name in _NAMESPACES:
        try:
            if os.getxattr(place, name, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return False


def kept_of(changes: Iterable[str], records: Callable[[str], object | None]) -> Callable[[str], bool]:
    """What a pass has to keep: databases of packages, their descriptions, and the paths that differ."""
    differing = frozenset(changes)

    def wanted(path: str) -> bool:
        return path in differing or records(path) is not None or path.endswith("/package.json")

    return wanted
