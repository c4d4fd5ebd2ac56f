"""Changes between a container and its image, freed of what the engine and we put there ourselves."""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from pytest_envpar.drift.outside import ENGINE, OURS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from pytest_envpar.drift.model import Attribute
    from pytest_envpar.drift.model import Change as Difference
    from pytest_envpar.drift.produce import Store
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.files import LayerFolders

Kind = Literal["added", "removed", "modified"]
Noise = Literal["bytecode", "tmp_path"]

_OUTSIDE = tuple(map(PurePosixPath, (*OURS, *ENGINE)))
_PASSWD = PurePosixPath("/etc/passwd")
_ROOT = PurePosixPath("/")


@dataclasses.dataclass(frozen=True, order=True)
class Change:
    """One path that differs.

    Args:
        attributes: What differs of a modified one; empty where that could not be found out.
    """

    path: PurePosixPath
    kind: Kind
    attributes: tuple[Attribute, ...] = ()

    @property
    def noise(self) -> Noise | None:
        """What kind of noise this is, if it is any: Python's bytecode, or pytest's folders of ``tmp_path``."""
        parts = self.path.parts
        if "__pycache__" in parts:
            return "bytecode"
        if len(parts) > 2 and parts[1] == "tmp" and parts[2].startswith("pytest-of-"):
            return "tmp_path"
        return None


@dataclasses.dataclass(frozen=True)
class Changes:
    """Changes in the order of their paths.

    Args:
        items: What counts.
        noise: Real, counted, and never of interest.
    """

    items: tuple[Change, ...] = ()
    noise: tuple[Change, ...] = ()

    def __iter__(self) -> Iterator[Change]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def count(self, kind: Kind) -> int:
        """How many changes are of this kind."""
        return sum(change.kind == kind for change in self.items)


def united(found: Iterable[Changes]) -> Changes:
    """What was changed in any of several containers, each path once."""
    several = list(found)
    return Changes(
        tuple(sorted({change for each in several for change in each.items})),
        tuple(sorted({change for each in several for change in each.noise})),
    )


def left_behind(
    engine: Engine,
    container_id: str,
    *,
    hidden: Iterable[PurePosixPath] = (),
    store: Callable[[], AbstractContextManager[Store]] | None = None,
) -> Changes:
    """What a container's processes changed in its file system, compared with its image.

    Works on running and on ended containers. Below a removed folder nothing is told; which names are the same file is
    not compared.

    Args:
        hidden: Container paths that are not the image's own: mount points of volumes and tmpfs, the project.
            They, all below them, and the folders that were made only to hold them are left out.
        store: Opens what is known of images, if that is needed.
    """
    hidden = tuple(hidden)
    told = _told(engine, container_id, hidden, store)
    if engine.info.kind == "podman" and any((each.path, each.kind) == (_PASSWD, "modified") for each in told):
        hidden = (*hidden, *_podman_accounts(engine, container_id))
    return own_changes(told, hidden)


def _told(
    engine: Engine,
    container_id: str,
    hidden: tuple[PurePosixPath, ...],
    store: Callable[[], AbstractContextManager[Store]] | None,
) -> list[Change]:
    """The raw listing, by the cheapest way where it can be had."""
    from pytest_envpar.drift import elsewhere, folder, upper

    folders = engine.layer_folders(container_id)
    if folders is not None:
        try:
            return list(_differing(folders))
        except (upper.UnreadableError, folder.UnreadableError):
            pass  # there are other ways
    return elsewhere.changes(engine, container_id, hidden, store)


def _differing(folders: LayerFolders) -> Iterator[Change]:
    """What the container's own layer changes. What it only wrote again, or has a copy of, is compared and dropped; what
    it added is not read."""
    from pytest_envpar.drift import upper
    from pytest_envpar.drift.compare import difference
    from pytest_envpar.drift.folder import FolderLayer
    from pytest_envpar.drift.layers import Stack

    below = Stack([FolderLayer(each) for each in reversed(folders.lower)])
    own = Stack([FolderLayer(folders.upper)])
    for change in upper.scan(folders.upper, folders.lower):
        if change.kind != "modified":
            yield change
            continue
        path = str(change.path)
        found = difference(below.get(path), own.get(path))
        attributes = own_attributes(found)
        if attributes:
            yield dataclasses.replace(change, attributes=attributes)


def own_attributes(found: Difference | None) -> tuple[Attribute, ...]:
    """What differs of a path by itself: which other names a file has depends on those."""
    return () if found is None else tuple(each for each in found.attributes if each != "hardlink")


def _podman_accounts(engine: Engine, container_id: str) -> tuple[PurePosixPath, ...]:
    """The account files, if Podman wrote them: it adds a user whose number the image does not know."""
    content = b"".join(engine.get_archive(container_id, _PASSWD))
    return (_PASSWD, _PASSWD.with_name("group")) if b":container user:" in content else ()


def own_changes(told: Iterable[Change], hidden: Iterable[PurePosixPath] = ()) -> Changes:
    """The changes among ``told`` (an engine's listing) that were neither made by the engine nor by us."""
    left_out = {*_OUTSIDE, *hidden} - {_ROOT}
    above = {parent for path in left_out for parent in path.parents}
    listed = sorted(set(told))
    # A folder counts as modified when something in it changed; what changed says more than that.
    busy = {change.path.parent for change in listed}
    kept: list[Change] = []
    for change in listed:
        if change.path in left_out or not left_out.isdisjoint(change.path.parents):
            continue
        if change.kind == "modified" and change.path in busy and not change.attributes:
            continue
        if change.kind != "removed" and change.path in above:
            continue  # made, or touched, on the way to a mount point
        kept.append(change)
    return Changes(
        tuple(change for change in kept if change.noise is None),
        tuple(change for change in kept if change.noise is not None),
    )
