"""What a container changed, where its own layer is no folder that can be read: by a walk through it if it runs, else by
what the engine tells and what it has at those paths."""

from __future__ import annotations

import contextlib
import stat
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pytest_envpar.drift import looking
from pytest_envpar.drift.changes import Change, own_attributes
from pytest_envpar.drift.compare import difference
from pytest_envpar.drift.produce import MemoryStore
from pytest_envpar.drift.routes import compare_sides, own_labels
from pytest_envpar.drift.sides import container_side, image_side
from pytest_envpar.drift.tar import TarError
from pytest_envpar.drift.tar_manifest import first_record
from pytest_envpar.errors import ConnectionLostError, EnvparError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from pytest_envpar.drift.model import Change as Difference
    from pytest_envpar.drift.produce import Store
    from pytest_envpar.drift.records import Record
    from pytest_envpar.engine.api import Engine

MAX_LOOKED_AT = 200
"""Paths of a container that has ended of which it is found out what differs: each takes two questions."""


def changes(
    engine: Engine,
    container_id: str,
    hidden: Sequence[PurePosixPath] = (),
    store: Callable[[], AbstractContextManager[Store]] | None = None,
) -> list[Change]:
    """What differs from the image.

    Args:
        hidden: See :func:`~pytest_envpar.drift.changes.left_behind`, also for ``store``.

    Raises:
        EngineError: The engine cannot tell.
    """
    try:
        with contextlib.nullcontext(MemoryStore()) if store is None else store() as known:
            left = image_side(engine, engine.inspect_container(container_id).image_id)
            right = container_side(engine, container_id, hidden=hidden)
            return list(_own(compare_sides(left, right, known, force="scan").changes))
    except (ConnectionLostError, NotFoundError):
        raise
    except EnvparError:
        return list(_told(engine, container_id))


def _own(found: Sequence[Difference]) -> Iterator[Change]:
    """As a container's own layer has it: what goes with a folder is not told of."""
    gone = "\0"
    for each in found:
        if each.path.startswith(gone):
            continue
        before, after = each.before, each.after
        if before is not None and before.type == "directory" and (after is None or after.type != "directory"):
            gone = each.path + "/"
        attributes = own_attributes(each)
        if attributes or each.kind != "modified":
            yield Change(PurePosixPath(each.path), each.kind, attributes)


def _told(engine: Engine, container_id: str) -> Iterator[Change]:
    """The engine's listing, which does not say what differs, and calls folders modified in which something did."""
    left = 0
    with contextlib.ExitStack() as resources:
        image = ""
        for told in engine.changes(container_id):
            change = Change(told.path, told.kind)
            left += told.kind == "modified"
            if told.kind != "modified" or left > MAX_LOOKED_AT:
                yield change
                continue
            if not image:
                side = image_side(engine, engine.inspect_container(container_id).image_id)
                image = looking.created(side, resources, own_labels())
            before, after = (_record(engine, each, told.path) for each in (image, container_id))
            if before is None or after is None:
                yield change
                continue
            attributes = own_attributes(difference(before, after))
            # Podman gives everything to the container's user, so that the owner may be what differs.
            if attributes or engine.info.kind == "podman":
                yield Change(told.path, told.kind, attributes)


def _record(engine: Engine, container: str, path: PurePosixPath) -> Record | None:
    """What a container has at a path; None if that cannot be told."""
    state = engine.stat_path(container, path)
    if state is None or (stat.S_ISLNK(state.mode) and engine.info.kind == "podman"):
        return None  # Podman gives what a link leads to
    try:
        return first_record(engine.get_archive(container, path), str(path))
    except TarError:
        return None
