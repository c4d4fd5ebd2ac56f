"""The two things that are compared: an image, a container, a file, or an entry of the lock file, each resolved once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_envpar.drift.archives import Archive, open_archive
from pytest_envpar.errors import ImageError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path, PurePosixPath

    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.containers import ContainerInfo
    from pytest_envpar.engine.values.images import ImageInfo, RunConfig
    from pytest_envpar.images.lockfile import Entry as LockEntry


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a comparison. Made by the functions of this module.

    Args:
        name: What it is called in the result.
        config: ``None`` if it has none (a bare file system) or it is not known (a lock entry without its image).
        image_id: Of the image, or of the container's image; empty if there is none.
        diff_ids: Of that image's layers, the lowest first; empty if there are none.
        engine: Which engine has it; ``None`` for a file.
        container: The container, if it is one.
        archive: The file, if it is one.
        hidden: Container paths that are left out without a word (the project's mount).
    """

    name: str
    config: RunConfig | None = None
    image_id: str = ""
    diff_ids: tuple[str, ...] = ()
    engine: Engine | None = None
    container: ContainerInfo | None = None
    archive: Archive | None = None
    hidden: tuple[PurePosixPath, ...] = ()

    @property
    def unchanging(self) -> bool:
        """Whether it is always the same bytes: an image or a file, and no container."""
        return self.container is None


def image_side(engine: Engine, reference: str, *, name: str | None = None) -> Side:
    """An image that an engine has, by reference or id. ImageError if it does not have it."""
    image = engine.inspect_image(reference)
    if image is None:
        raise ImageError(
            f"{engine.info.kind} does not have the image {reference}",
            hint=f"pull it: {engine.info.kind} pull {reference}",
        )
    return of_image(engine, image, name or reference)


def of_image(engine: Engine, image: ImageInfo, name: str) -> Side:
    """An image that was inspected already."""
    return Side(name, image.config, image.id, image.layers, engine)


def container_side(
    engine: Engine, container: str, *, name: str | None = None, hidden: Iterable[PurePosixPath] = ()
) -> Side:
    """A container, running or not, by name or id. NotFoundError if the engine does not have it.

    Args:
        hidden: See :class:`Side`.
    """
    info = engine.inspect_container(container)
    image = engine.inspect_image(info.image_id)
    return Side(
        name or info.name or container,
        info.config,
        info.image_id,
        image.layers if image is not None else (),
        engine,
        info,
        hidden=tuple(hidden),
    )


def archive_side(path: Path, *, name: str | None = None, platform: str = "") -> Side:
    """An image (``docker save``, OCI layout) or a root file system (an export) in a file. Errors as
    :func:`~pytest_envpar.drift.archives.open_archive`."""
    archive = open_archive(path, platform=platform)
    return Side(name or str(path), archive.config, archive.image_id, archive.diff_ids, archive=archive)


def lock_side(entry: LockEntry, name: str, engine: Engine | None) -> Side:
    """What a stage was when it was locked: as an image if the engine still has it, else what is known of it.

    Without the image its layers have to be in the ledger; its configuration is not known.
    """
    if engine is not None:
        try:
            image = engine.inspect_image(entry.image_id)
        except NotFoundError:
            image = None
        if image is not None:
            return of_image(engine, image, name)
    return Side(name, None, entry.image_id, tuple(entry.layers))
