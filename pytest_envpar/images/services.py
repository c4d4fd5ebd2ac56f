"""The images of a stage's services: each to its exact bytes, and pinned in the stage's entry of the lock file."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.errors import ImageError
from pytest_envpar.images import lockfile
from pytest_envpar.images.pinned import pin
from pytest_envpar.images.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_envpar.config.model import Service, Stage
    from pytest_envpar.engine.api import Engine, Progress
    from pytest_envpar.images.pinned import PinnedImage


def references(stage: Stage) -> frozenset[str]:
    """The images that the services name."""
    return frozenset(service.image for service in stage.services.values())


def resolve_services(
    engine: Engine, stage: Stage, root: Path, pins: Mapping[str, str], progress: Progress | None = None
) -> Mapping[str, PinnedImage]:
    """The image of each service, present on the engine.

    Args:
        root: The project's root (host).
        pins: What the lock file has, by reference: a digest, or ``local`` and an image id. What it does not have is
            what the tag means.

    Raises:
        ImageError: An image cannot be had, or is not the locked one.
        EngineError: The engine failed.
    """
    found: dict[str, PinnedImage] = {}
    by_reference: dict[str, PinnedImage] = {}
    for name, service in stage.services.items():
        if service.image not in by_reference:
            named = _as_stage(stage, service)
            pinned = pins.get(service.image)
            by_reference[service.image] = (
                resolve(engine, named, root, progress=progress)
                if pinned is None
                else _exact(engine, stage, named, root, service.image, pinned, progress)
            )
        found[name] = by_reference[service.image]
    return MappingProxyType(found)


def pins_of(images: Mapping[str, PinnedImage]) -> Mapping[str, str]:
    """What the lock file says of these images, by reference."""
    return MappingProxyType(
        {image.reference: image.digest or f"{lockfile.LOCAL}{image.image_id}" for image in images.values()}
    )


def _exact(
    engine: Engine,
    stage: Stage,
    named: Stage,
    root: Path,
    reference: str,
    pinned: str,
    progress: Progress | None,
) -> PinnedImage:
    if not pinned.startswith(lockfile.LOCAL):
        return resolve(engine, named, root, digest=pinned, progress=progress)
    info = engine.inspect_image(pinned.removeprefix(lockfile.LOCAL))
    if info is None:
        raise ImageError(
            f"stage {named.name!r}: the lock pins {reference} to a local image, {pinned}, which this engine does not "
            "have",
            hint="provide that image (docker save, docker load), or lock what the engine has: "
            f"pytest --env={stage.name} --env-update",
        )
    return pin(reference, info)


def _as_stage(stage: Stage, service: Service) -> Stage:
    """A service's image is resolved as that of a stage; the name is what messages show."""
    return dataclasses.replace(
        stage,
        name=f"{stage.name}.services.{service.name}",
        image=service.image,
        build=None,
        setup=(),
        services=MappingProxyType({}),
    )
