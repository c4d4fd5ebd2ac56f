"""From a stage to the exact image it means, pulling or building it where the engine lacks it."""

from __future__ import annotations

import difflib
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.errors import ConnectionLostError, EngineError, ImageError, NotFoundError
from pytest_envpar.images.pinned import PinnedImage, parse_reference, pin, same_platform

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_envpar.config.model import Stage
    from pytest_envpar.engine.api import Engine, Progress

# What engines and registries say, in lower case: words of containerd, distribution, Docker and Podman.
_DENIED = (
    *("unauthorized", "authentication required", "no basic auth", "access denied", "is denied", "denied:"),
    "forbidden",
)
_MISSING = ("manifest unknown", "not found", "name unknown", "no such image", "repository does not exist")
_PLATFORM = (
    *("no matching manifest", "no image found in manifest list", "does not match the specified platform"),
    *("no match for platform", "unknown operating system or architecture", "invalid platform"),
)
_UNREACHABLE = (
    *("no such host", "connection refused", "timeout", "network is unreachable", "dial tcp", "x509", "tls"),
    *("no route to host", "server misbehaving", "request canceled", "temporary failure", "eof"),
    *("http response to https client", "context deadline exceeded"),
)


def resolve(
    engine: Engine,
    stage: Stage,
    project_root: Path,
    *,
    progress: Progress | None = None,
    owner_labels: Mapping[str, str] = MappingProxyType({}),
    leave_out: tuple[Path, ...] = (),
) -> PinnedImage:
    """The image of ``stage``, present on the engine.

    Args:
        project_root: The project's root (host); it names what is built.
        progress: Told each line of a pull or a build.
        owner_labels: The labels of the run; a built image carries those that do not change from run to run.
        leave_out: What a run writes (host), and so is no part of a build's context.

    Raises:
        ImageError: The image cannot be found, pulled or built, or is of another platform than asked.
        EngineError: The engine failed.
    """
    if stage.image is not None:
        return _resolve_reference(engine, stage, stage.image, progress)
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
        )
    raise ImageError(
        f"stage {stage.name!r} has neither an image nor a build",
        hint=f"set 'image' or 'build' in [tool.envpar.stages.{stage.name}]",
    )


def _resolve_reference(
    engine: Engine, stage: Stage, reference: str, progress: Progress | None
) -> PinnedImage:
    try:
        parsed = parse_reference(reference)
    except ValueError as error:
        raise ImageError(
            f"stage {stage.name!r}: {reference!r} is not an image reference: {error}",
            hint="write NAME:TAG or NAME@sha256:DIGEST, for example python:3.12-slim",
        ) from None
    info = engine.inspect_image(reference)
    if info is None:
        if not parsed.name:
            raise ImageError(
                f"stage {stage.name!r}: the engine has no image with the id {reference}",
                hint="an image id cannot be pulled; name the image by tag or by NAME@sha256:DIGEST",
            )
        pull_reference(engine, stage, reference, progress)
        info = engine.inspect_image(reference)
        if info is None:
            raise ImageError(f"stage {stage.name!r}: {reference} was pulled, yet the engine does not know it")
    pinned = pin(reference, info)
    if stage.platform is not None and not same_platform(stage.platform, pinned.platform):
        raise ImageError(
            f"stage {stage.name!r}: the engine has {reference} for {pinned.platform},"
            f" the stage asks for {stage.platform}",
            hint=f"docker pull --platform {stage.platform} {reference}; or name that platform's own digest",
        )
    return pinned


def pull_reference(engine: Engine, stage: Stage, reference: str, progress: Progress | None) -> None:
    """Pull ``reference`` for the platform of ``stage``, whatever the engine has already.

    Raises:
        ImageError: The registry refuses it, does not have it, or cannot be reached.
        ConnectionLostError: The engine went away.
    """
    if progress is not None:
        progress(f"pulling {reference}")
    try:
        engine.pull(reference, platform=stage.platform, progress=progress)
    except ConnectionLostError:
        raise
    except EngineError as error:
        raise _pull_error(engine, stage, reference, error) from error


def _pull_error(engine: Engine, stage: Stage, reference: str, error: EngineError) -> ImageError:
    said = " ".join((error.message, *error.detail)).lower()

    def among(signs: tuple[str, ...]) -> bool:
        return any(sign in said for sign in signs)

    where = f"stage {stage.name!r}: image {reference}"
    evidence = tuple(line for line in (*error.message.splitlines(), *error.detail) if line.strip())
    if among(_PLATFORM):
        asked = stage.platform or f"{engine.info.os}/{engine.info.architecture}"
        return ImageError(
            f"{where} does not exist for the platform {asked}",
            hint=f"change 'platform' in [tool.envpar.stages.{stage.name}], or use an image built for {asked}",
            detail=evidence,
        )
    # Docker Hub answers "pull access denied … repository does not exist" to both; the names decide what
    # helps.
    if "repository does not exist" not in said and among(_DENIED):
        registry = parse_reference(reference).name.partition("/")[0]
        return ImageError(
            f"{where} was refused by its registry",
            hint=f"log in: docker login{'' if registry == 'docker.io' else ' ' + registry}",
            detail=evidence,
        )
    if isinstance(error, NotFoundError) or among(_MISSING):
        return ImageError(f"{where} was not found", hint=_not_found_hint(engine, reference), detail=evidence)
    if among(_UNREACHABLE):
        return ImageError(
            f"{where} is not on the engine and its registry cannot be reached",
            hint="check the network and the engine's proxy settings; " + _local_hint(engine, reference),
            detail=evidence,
        )
    return ImageError(f"{where} could not be pulled", hint=_local_hint(engine, reference), detail=evidence)


def _not_found_hint(engine: Engine, reference: str) -> str:
    return f"check the name; a private image needs docker login; {_local_hint(engine, reference)}"


def _local_hint(engine: Engine, reference: str) -> str:
    try:
        names = sorted({listed.name for listed in engine.list_images({}) if ":" in listed.name})
    except EngineError:
        names = []
    names = [name for name in names if "<none>" not in name and not name.startswith("sha256:")]
    near = difflib.get_close_matches(reference, names, n=5, cutoff=0.4) or names[:5]
    return f"images on this engine: {', '.join(near)}" if near else "the engine has no images of its own"
