"""From a stage to the exact image it means, pulling or building it where the engine lacks it."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.errors import ImageError
from pytest_envpar.images.fetch import pull_reference
from pytest_envpar.images.pinned import PinnedImage, parse_reference, pin, repository, same_platform

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_envpar.config.model import Stage
    from pytest_envpar.engine.api import Engine, Progress


def resolve(
    engine: Engine,
    stage: Stage,
    project_root: Path,
    *,
    digest: str | None = None,
    image_id: str | None = None,
    progress: Progress | None = None,
    owner_labels: Mapping[str, str] = MappingProxyType({}),
    leave_out: tuple[Path, ...] = (),
    locked_bases: Mapping[str, str] = MappingProxyType({}),
) -> PinnedImage:
    """The image of ``stage``, present on the engine.

    Args:
        project_root: The project's root (host); it names what is built.
        digest: ``sha256:…`` that a stage with ``image`` is pinned to: exactly these bytes of its repository, whatever
            its tag means. An image that is there is taken without asking the registry, whatever ``pull`` says.
        image_id: ``sha256:…`` of a local image that the stage is pinned to. Nothing is pulled or built.
        progress: Told each line of a pull or a build.
        owner_labels: The labels of the run; a built image carries those that do not change from run to run.
        leave_out: What a run writes (host), and so is no part of a build's context.
        locked_bases: What the lock says of the images that a build starts from, for those that the engine lacks;
            as in :attr:`~pytest_envpar.images.lockfile.Entry.base`.

    Raises:
        ImageError: The image cannot be found, pulled or built, or is of another platform than asked.
        EngineError: The engine failed.
    """
    if image_id is not None:
        return _resolve_id(engine, stage, image_id)
    if stage.image is not None:
        return _resolve_reference(engine, stage, stage.image, digest, progress)
    if stage.build is not None:
        from pytest_envpar.images.build import resolve_build

        return resolve_build(
            engine,
            stage,
            stage.build,
            project_root,
            progress=progress,
            owner_labels=owner_labels,
            leave_out=leave_out,
            locked_bases=locked_bases,
        )
    raise ImageError(
        f"stage {stage.name!r} has neither an image nor a build",
        hint=f"set 'image' or 'build' in [tool.envpar.stages.{stage.name}]",
    )


def _resolve_id(engine: Engine, stage: Stage, image_id: str) -> PinnedImage:
    info = engine.inspect_image(image_id)
    if info is None:
        reference = stage.image or "what it builds"
        tagged = engine.inspect_image(stage.image) if stage.image is not None else None
        other = "" if tagged is None else f"; {stage.image} is {tagged.id} here"
        raise ImageError(
            f"stage {stage.name!r}: the lock pins {reference} to the local image {image_id}, which this engine lacks"
            + other,
            hint="a local image is known to one engine only: load that very image here (docker save, docker load), "
            f"or lock what this engine has: pytest --env={stage.name} --env-update",
        )
    return _checked(stage, pin(stage.image or image_id, info))


def _resolve_reference(
    engine: Engine, stage: Stage, reference: str, digest: str | None, progress: Progress | None
) -> PinnedImage:
    try:
        parsed = parse_reference(reference)
    except ValueError as error:
        raise ImageError(
            f"stage {stage.name!r}: {reference!r} is not an image reference: {error}",
            hint="write NAME:TAG or NAME@sha256:DIGEST, for example python:3.12-slim",
        ) from None
    if digest is not None and parsed.name:
        exact = f"{repository(reference)}@{digest}"
        pinned = _present(engine, stage, exact, progress, exact=True)
        return dataclasses.replace(pinned, reference=reference, digest=digest)
    if not parsed.name:
        info = engine.inspect_image(reference)
        if info is None:
            raise ImageError(
                f"stage {stage.name!r}: the engine has no image with the id {reference}",
                hint="an image id cannot be pulled; name the image by tag or by NAME@sha256:DIGEST",
            )
        return _checked(stage, pin(reference, info))
    return _present(engine, stage, reference, progress, exact=parsed.digest is not None)


def _present(
    engine: Engine, stage: Stage, reference: str, progress: Progress | None, *, exact: bool
) -> PinnedImage:
    """The image of ``reference``, pulled where it has to be.

    Args:
        exact: Whether the reference has a digest. What it names can be there for another platform, which a pull mends
            without moving a tag of the user's.
    """
    info = engine.inspect_image(reference)
    pinned = None if info is None else pin(reference, info)
    usable = pinned is not None and (not exact or _fits(stage, pinned))
    if not usable or (stage.pull == "always" and not exact):
        if stage.pull == "never":
            if pinned is not None:
                return _checked(stage, pinned)
            raise ImageError(
                f'stage {stage.name!r}: the engine does not have {reference}, and pull = "never"',
                hint=f"docker pull {reference}; or remove 'pull' from [tool.envpar.stages.{stage.name}]",
            )
        pull_reference(engine, stage, reference, progress)
        info = engine.inspect_image(reference)
        if info is None:
            raise ImageError(f"stage {stage.name!r}: {reference} was pulled, yet the engine does not know it")
        pinned = pin(reference, info)
    assert pinned is not None
    return _checked(stage, pinned)


def _fits(stage: Stage, image: PinnedImage) -> bool:
    return stage.platform is None or same_platform(stage.platform, image.platform)


def _checked(stage: Stage, image: PinnedImage) -> PinnedImage:
    if not _fits(stage, image):
        reference = image.reference
        raise ImageError(
            f"stage {stage.name!r}: the engine has {reference} for {image.platform},"
            f" the stage asks for {stage.platform}",
            hint=f"docker pull --platform {stage.platform} {reference}; or name that platform's own digest",
        )
    return image
