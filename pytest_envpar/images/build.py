"""Stages that are built: once per state of their inputs, by one process while others wait."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from pytest_envpar.errors import ConnectionLostError, EngineError, ImageError
from pytest_envpar.images import tarstream
from pytest_envpar.images.context import Context, base_references, read_context
from pytest_envpar.images.pinned import PinnedImage, pin, same_platform
from pytest_envpar.images.tags import CACHE, INPUT, KIND, PROJECT, STAGE, USER, build_repository

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_envpar.config.model import Build, Stage
    from pytest_envpar.engine.api import Engine, ImageInfo, Progress


def resolve_build(
    engine: Engine,
    stage: Stage,
    build: Build,
    project_root: Path,
    *,
    progress: Progress | None,
    owner_labels: Mapping[str, str],
    leave_out: tuple[Path, ...] = (),
) -> PinnedImage:
    """The image of a ``build`` stage; see :func:`pytest_envpar.images.resolve.resolve`."""
    context = _read(stage, build, leave_out)
    inputs = _inputs(stage, build, context)
    bases = bases_of(build)
    repository = build_repository(project_root.name, stage.name)

    def tag_now() -> str:
        # A base image that moved is another input; its id is known only where the engine has it.
        ids = {base: found.id if (found := engine.inspect_image(base)) else None for base in bases}
        return f"{repository}:{_hash({'inputs': inputs, 'bases': ids})[:12]}"

    tag = tag_now()
    info = engine.inspect_image(tag)
    if info is None:
        with _one_builder(engine, tag, progress):
            info = engine.inspect_image(tag)
            if info is None:
                _build(engine, stage, build, context, tag, _labels(stage, owner_labels, inputs), progress)
                # The build may have fetched a base: the next run will see its id and ask for this tag.
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
        content = context.digest()
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
    text = build.dockerfile.read_text(encoding="utf-8", errors="replace")
    return base_references(text, build.args.items())


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


@contextlib.contextmanager
def _one_builder(engine: Engine, tag: str, progress: Progress | None) -> Iterator[None]:
    """Hold the right to build ``tag`` on this engine among all processes of this user."""
    name = hashlib.sha256(f"{engine.info.id} {tag}".encode()).hexdigest()[:16]
    # The lock file stays: removing it would let two processes lock two files of one name.
    lock = filelock.FileLock(_lock_folder() / f"build-{name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if progress is not None:
            progress(f"waiting for another process that builds {tag}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or ""
    cache = Path(base) if base.startswith("/") else Path.home() / ".cache"
    folder = cache / "pytest-envpar" / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError):
        # A user without a writable home, as in many CI containers.
        folder = Path(tempfile.gettempdir()) / f"pytest-envpar-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder
