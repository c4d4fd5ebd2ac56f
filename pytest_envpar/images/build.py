"""Stages that are built: once per state of their inputs, by one process while others wait."""

from __future__ import annotations

import hashlib
import json
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.errors import ConnectionLostError, EngineError, ImageError
from pytest_envpar.images import dockerfile as dockerfiles
from pytest_envpar.images import tarstream
from pytest_envpar.images.context import Context, memory_of, read_context
from pytest_envpar.images.fetch import pull_reference
from pytest_envpar.images.lockfile import LOCAL
from pytest_envpar.images.pinned import PinnedImage, parse_reference, pin, same_platform
from pytest_envpar.images.pinned import repository as repository_of
from pytest_envpar.images.tags import CACHE, INPUT, KIND, PROJECT, STAGE, USER, build_repository
from pytest_envpar.images.turns import one_at_a_time

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_envpar.config.model import Build, Stage
    from pytest_envpar.engine.api import Engine, Progress
    from pytest_envpar.engine.values.images import ImageInfo


def resolve_build(
    engine: Engine,
    stage: Stage,
    build: Build,
    project_root: Path,
    *,
    progress: Progress | None,
    owner_labels: Mapping[str, str],
    leave_out: tuple[Path, ...] = (),
    locked_bases: Mapping[str, str] = MappingProxyType({}),
) -> PinnedImage:
    """The image of a ``build`` stage; see :func:`pytest_envpar.images.resolve.resolve`."""
    context = _read(stage, build, leave_out)
    inputs = _inputs(stage, build, context)
    told = _parsed(build)
    bases = told.bases
    repository = build_repository(project_root.name, stage.name)

    def tag_now() -> str:
        # A base image that moved is another input; its id is known only where the engine has it.
        ids = {base: found.id if (found := engine.inspect_image(base)) else None for base in bases}
        return f"{repository}:{_hash({'inputs': inputs, 'bases': ids})[:12]}"

    tag = tag_now()
    info = engine.inspect_image(tag)
    if info is None:
        _refuse_sessions(stage, build, told)
        _fetch_bases(engine, stage, build, bases, locked_bases, progress)
        tag = tag_now()
        with one_at_a_time(engine, tag, progress):
            info = engine.inspect_image(tag)
            if info is None:
                labels = _labels(stage, owner_labels, inputs)
                _build(engine, stage, build, context, tag, labels, progress, buildkit=_for_buildkit(bases))
                # The build may have fetched a base that the text does not tell: the next run asks for this tag.
                later = tag_now()
                if later != tag:
                    engine.tag_image(tag, later)
                    tag = later
                info = engine.inspect_image(tag)
    return _pinned(stage, tag, info)


def input_hash(stage: Stage, build: Build, leave_out: tuple[Path, ...] = ()) -> str:
    """The hash of what this machine's files and the configuration give to a build; asks no engine.

    Raises:
        ImageError: The context cannot be read.
    """
    return _inputs(stage, build, _read(stage, build, leave_out))


def _pinned(stage: Stage, tag: str, info: ImageInfo | None) -> PinnedImage:
    if info is None:
        raise ImageError(f"stage {stage.name!r}: {tag} was built, yet the engine does not know it")
    pinned = pin(tag, info)
    if stage.platform is not None and not same_platform(stage.platform, pinned.platform):
        raise ImageError(
            f"stage {stage.name!r}: the build gave an image for {pinned.platform},"
            f" the stage asks for {stage.platform}",
            hint="the engine builds for its own platform, or the Dockerfile's FROM names one",
        )
    return pinned


def _read(stage: Stage, build: Build, leave_out: tuple[Path, ...] = ()) -> Context:
    where = f"[tool.envpar.stages.{stage.name}] build"
    if not build.context.is_dir():
        raise ImageError(
            f"stage {stage.name!r}: the build context {build.context} is not a folder",
            hint=f"correct 'context' in {where}; it is relative to the configuration file",
        )
    if not build.dockerfile.is_file():
        raise ImageError(
            f"stage {stage.name!r}: there is no Dockerfile at {build.dockerfile}",
            hint=f"correct 'dockerfile' in {where}; it is relative to the configuration file",
        )
    try:
        return read_context(build.context, build.dockerfile, leave_out)
    except OSError as error:
        raise _unreadable(stage, build, error) from error


def _unreadable(stage: Stage, build: Build, error: OSError) -> ImageError:
    return ImageError(
        f"stage {stage.name!r}: the build context {build.context} cannot be read: {error}",
        hint=f"leave the path out with a line in {build.context / '.dockerignore'}",
    )


def _inputs(stage: Stage, build: Build, context: Context) -> str:
    try:
        content = context.digest(memory_of(build.context, build.dockerfile))
    except OSError as error:
        raise _unreadable(stage, build, error) from error
    return _hash(
        {
            "context": content,
            "dockerfile": context.dockerfile,
            "target": build.target,
            "args": dict(build.args),
            "platform": stage.platform,
        }
    )


def bases_of(build: Build) -> tuple[str, ...]:
    """The images that the Dockerfile starts from, as it names them."""
    return _parsed(build).bases


def _parsed(build: Build) -> dockerfiles.Dockerfile:
    text = build.dockerfile.read_text(encoding="utf-8", errors="replace")
    return dockerfiles.parse(text, build.args.items(), build.target)


def _refuse_sessions(stage: Stage, build: Build, told: dockerfiles.Dockerfile) -> None:
    """What needs a client that answers the builder's questions; without one a secret would be an empty file."""
    if told.session:
        lines = ", ".join(f"line {line}: type={kind}" for line, kind in told.session)
        raise ImageError(
            f"stage {stage.name!r}: {build.dockerfile} mounts secrets or ssh keys, which is not supported ({lines})",
            hint="fetch what needs a secret outside of the build and COPY it in, or build the image yourself and name "
            f"it with 'image' in [tool.envpar.stages.{stage.name}]",
        )


def _fetch_bases(
    engine: Engine,
    stage: Stage,
    build: Build,
    bases: tuple[str, ...],
    locked: Mapping[str, str],
    progress: Progress | None,
) -> None:
    """Pull the bases that the engine lacks, each in the locked state if there is one.

    BuildKit would pull them itself, and has no credentials: it asks for them through a session.
    """
    for reference in bases:
        try:
            parsed = parse_reference(reference)
        except ValueError:
            continue  # the builder says it best
        if not parsed.name or engine.inspect_image(reference) is not None:
            continue
        where = f"stage {stage.name!r}: {build.dockerfile}: base image {reference}"
        digest = locked.get(reference)
        if digest is None or digest.startswith(LOCAL) or parsed.digest is not None:
            pull_reference(engine, stage, reference, progress, where=where)
        else:
            exact = f"{repository_of(reference)}@{digest}"
            pull_reference(engine, stage, exact, progress, where=where)
            # The engine has nothing under this name, so that nothing of the user's moves.
            engine.tag_image(exact, f"{repository_of(reference)}:{parsed.tag}")


def _for_buildkit(bases: tuple[str, ...]) -> bool:
    """Whether BuildKit knows all of these: it has no images by id."""
    return not any(reference.startswith("sha256:") for reference in bases)


def _hash(value: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _labels(stage: Stage, owner_labels: Mapping[str, str], inputs: str) -> dict[str, str]:
    # Labels are a part of the image: what changes from run to run would make every build another image.
    kept = {key: owner_labels[key] for key in (PROJECT, USER) if key in owner_labels}
    return {**kept, KIND: CACHE, STAGE: stage.name, INPUT: inputs}


def _build(
    engine: Engine,
    stage: Stage,
    build: Build,
    context: Context,
    tag: str,
    labels: Mapping[str, str],
    progress: Progress | None,
    *,
    buildkit: bool,
) -> None:
    if progress is not None:
        progress(f"building {tag} from {build.dockerfile}")
    try:
        engine.build(
            tarstream.tar(context.entries),
            dockerfile=context.dockerfile,
            tag=tag,
            target=build.target,
            args=build.args,
            labels=labels,
            platform=stage.platform,
            buildkit=buildkit,
            progress=progress,
        )
    except ConnectionLostError:
        raise
    except EngineError as error:
        raise ImageError(
            f"stage {stage.name!r}: building {build.dockerfile} failed: {error.message}",
            hint=error.hint,
            detail=error.detail,
        ) from error
