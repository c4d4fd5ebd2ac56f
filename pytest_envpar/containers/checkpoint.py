"""Checkpoints: the file system of a container kept as an image under a name of the project.

A checkpoint is a cache: labelled, listed by ``envpar ps --cache``, removed by ``envpar prune --cache``. Its image is
``pytest-envpar/PROJECT-checkpoint-HASH:NAME``, where the hash is that of the project's path: two checkouts do not meet.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import TYPE_CHECKING

from pytest_envpar.errors import UsageError
from pytest_envpar.images.pinned import pin
from pytest_envpar.images.tags import CACHE, INPUT, KIND, PARENT, PROJECT, STAGE, build_repository

if TYPE_CHECKING:
    from pytest_envpar.containers.handle import Container
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.images.pinned import PinnedImage

_INPUT = "checkpoint:"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A kept file system.

    Args:
        name: Unique in the project.
        reference: The image's name on the engine.
        image_id: The image's id; what a container is restored from even if the name has been taken over.
        parent_id: The id of the image under the container that it was taken from.
        stage: The stage of that container; ``None`` for a plain image.
    """

    name: str
    reference: str
    image_id: str
    parent_id: str
    stage: str | None


def reference_of(project: str, name: str) -> str:
    """The image reference of a checkpoint.

    Raises:
        UsageError: The name cannot be one.
    """
    if not _NAME.match(name):
        raise UsageError(
            f"{name!r} cannot be a checkpoint's name",
            hint="use letters, digits, '.', '_' and '-', at most 128, and begin with a letter or a digit",
        )
    place = hashlib.sha256(project.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    root = project.rstrip("/").rpartition("/")[2]
    return f"{build_repository(root, f'checkpoint-{place}')}:{name}"


def take(container: Container, name: str) -> Checkpoint:
    """Commit ``container`` as the checkpoint ``name``; see :meth:`Container.checkpoint`."""
    recipe = container.recipe
    engine, image = recipe.engine, container.image
    reference = reference_of(recipe.owner.project, name)
    before = engine.inspect_image(reference)
    labels = {
        **recipe.owner.labels("cache", container.stage),
        INPUT: f"{_INPUT}{name}",
        PARENT: image.image_id,
    }
    # The container idles, or runs whatever it was started with; its image is to start what its own image starts.
    image_id = engine.commit(
        container.id,
        reference,
        labels=labels,
        entrypoint=image.info.entrypoint,
        command=image.info.cmd,
        comment=f"checkpoint {name}",
    )
    if before is not None and before.id != image_id:
        _drop(engine, before.id)
    made = Checkpoint(name, reference, image_id, image.image_id, container.stage)
    if recipe.remember is not None:
        recipe.remember(made)
    return made


def find(engine: Engine, project: str, name: str, image_id: str | None = None) -> Checkpoint | None:
    """The checkpoint of that name that the engine has, whichever run took it.

    Args:
        image_id: That image, which was taken under the name, even if the name has been taken over since.

    Raises:
        UsageError: The name cannot be one.
    """
    reference = reference_of(project, name)
    info = engine.inspect_image(image_id or reference)
    if info is None and image_id is not None:
        raise _gone(name)
    labels = {} if info is None else info.labels
    if info is None or (labels.get(PROJECT), labels.get(INPUT)) != (project, f"{_INPUT}{name}"):
        return None
    return Checkpoint(name, reference, info.id, labels.get(PARENT, ""), labels.get(STAGE))


def image_of(engine: Engine, checkpoint: Checkpoint) -> PinnedImage:
    """The checkpoint's image. Raises UsageError if the engine no longer has it."""
    info = engine.inspect_image(checkpoint.image_id)
    if info is None:
        raise _gone(checkpoint.name)
    return pin(checkpoint.reference, info)


def _gone(name: str) -> UsageError:
    return UsageError(
        f"the checkpoint {name!r} is gone from the engine",
        hint="take it again; `envpar prune --cache` removes checkpoints",
    )


def drop_nameless(engine: Engine, project: str) -> None:
    """Remove the checkpoints whose names were taken over while containers used them. Those still in use stay."""
    for image in engine.list_images({KIND: CACHE, PROJECT: project, INPUT: ""}):
        if not image.name and image.labels.get(INPUT, "").startswith(_INPUT):
            _drop(engine, image.id)


def _drop(engine: Engine, image_id: str) -> None:
    """Remove an image that has no name any more, unless a container still needs it."""
    from pytest_envpar.errors import EngineError

    try:
        engine.remove_image(image_id)
    except EngineError:
        pass  # in use: the end of this run, a later one, or `envpar prune --cache` removes it
