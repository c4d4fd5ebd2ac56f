"""Starting a container all-or-nothing, and removing it for certain."""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.containers.refusals import stage_errors
from pytest_envpar.containers.removal import remove_owned
from pytest_envpar.containers.source import (
    SourcePlan,
    fill_source,
    open_source,
    remove_volume,
    written_mount,
)
from pytest_envpar.engine.values.create import ContainerSpec, Mount
from pytest_envpar.errors import ConflictError, StageError
from pytest_envpar.images.tags import slug

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from pytest_envpar.config.model import Stage
    from pytest_envpar.containers.labels import Kind, Owner
    from pytest_envpar.engine.api import Engine, Stream
    from pytest_envpar.engine.values.containers import ContainerInfo
    from pytest_envpar.images.pinned import PinnedImage

KEPT = "envpar-kept-"
"""Begins the names of containers that were kept."""

_PREFIX = "envpar-"
_EMPTY: Mapping[str, str] = MappingProxyType({})

Archive = tuple[PurePosixPath, "bytes | Iterable[bytes]"]
"""A container path and the tar that is extracted there before the start."""


class RunningContainer:
    """A started container that belongs to us. A context manager: leaving removes it.

    Mutable: :meth:`remove` may be called any number of times, from any exit path.
    """

    def __init__(
        self,
        engine: Engine,
        container_id: str,
        name: str,
        stream: Stream | None,
        stack: contextlib.ExitStack,
        mounts: tuple[Mount, ...] = (),
        tmpfs: tuple[PurePosixPath, ...] = (),
    ) -> None:
        self.engine = engine
        self.id = container_id
        self.name = name
        self._stream = stream
        self._stack = stack
        self.mounts = mounts
        self.tmpfs = tmpfs
        self._removing = threading.RLock()

    @property
    def stream(self) -> Stream:
        """The stream of the main process, attached before the start."""
        if self._stream is None:
            raise ValueError("this container was started without being attached to")
        return self._stream

    def inspect(self) -> ContainerInfo:
        """The container's state now. NotFoundError if it was removed by someone else."""
        return self.engine.inspect_container(self.id)

    def mount_points(self) -> tuple[PurePosixPath, ...]:
        """Container paths that are not part of the container's own file system."""
        return (*(mount.target for mount in self.mounts), *self.tmpfs)

    def release(self) -> None:
        """Give up ownership: the container stays when this object is closed (``--env-keep``)."""
        self._stack.pop_all()
        if self._stream is not None:
            self._stream.close()

    def keep(self) -> None:
        """Give up ownership under a name by which sweeps know that it is to stay: see :func:`kept_name`."""
        name = kept_name(self.name)
        self.engine.rename(self.id, name)
        self.name = name
        self.release()

    def remove(self) -> None:
        """Kill and remove the container and its volumes. Safe to repeat, and if it is already gone."""
        with self._removing:  # whoever comes second waits until it is done
            self._stack.close()

    def __enter__(self) -> RunningContainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def container_name(owner: Owner, stage: str, number: int | None = None) -> str:
    """``envpar-<stage>-<run>-<number>``; without a number a random word takes its place."""
    last = secrets.token_hex(3) if number is None else str(number)
    return f"{_PREFIX}{slug(stage, fallback='stage')}-{owner.run}-{last}"


def kept_name(name: str) -> str:
    """The name of a container that outlives its run because the user asked for it; its volumes keep theirs."""
    return KEPT + name.removeprefix(_PREFIX)


def run_name(name: str) -> str:
    """The name under which a kept container was made: its volumes are called after it."""
    return _PREFIX + name.removeprefix(KEPT) if name.startswith(KEPT) else name


def start_container(
    engine: Engine,
    image: PinnedImage,
    stage: Stage,
    *,
    owner: Owner,
    command: Sequence[str],
    source_plan: SourcePlan | None = None,
    mounts: Sequence[Mount] = (),
    env: Mapping[str, str] = _EMPTY,
    tmpfs: Mapping[str, str] = _EMPTY,
    archives: Sequence[Archive] = (),
    name: str | None = None,
    kind: Kind = "run",
    workdir: PurePosixPath | None = None,
    stdin: bool = True,
    attach: bool = True,
    ports: tuple[str, ...] = (),
    network: str | None = None,
    more_labels: Mapping[str, str] = _EMPTY,
    watched: bool = False,
) -> RunningContainer:
    """Create, fill, attach to and start a container of ``stage``; if any step fails, nothing is left.

    The command replaces the image's entrypoint as well. Every key of the stage that says how a container is
    run is applied; ``pass-env`` has to be resolved into ``env``. An empty command leaves the image its own.

    Args:
        source_plan: How the project gets in; ``None`` leaves it out.
        mounts: More mounts (the agent).
        env: Added to the stage's ``env`` and wins over it.
        tmpfs: More tmpfs: container path to mount options.
        archives: Extracted before the start, in order.
        name: See :func:`container_name`; made up if ``None``.
        workdir: Working directory of the command; default: the stage's, else the project root inside.
        ports: Published on the loopback address, as ``5432/tcp``.
        network: The run's own network, where the services are. It takes the place of ``network = "none"``, and comes
            first beside a network that the stage names.
        more_labels: Added to those of the container and its volumes.
        watched: Show what is written over the project at ``WRITTEN``, too, where that is a volume.

    Raises:
        StageError: The image or a key of the stage makes the container impossible; the message names the key.
        EngineError: The engine failed.
    """
    if stage.runtime is not None and engine.info.kind == "podman":
        # Its Docker API takes the key and does not look at it.
        raise StageError(
            f"stage {stage.name!r}: runtime = {stage.runtime!r} cannot be chosen for one container on Podman",
            hint="set 'runtime' in the [engine] table of containers.conf, or use Docker",
        )
    name = name or container_name(owner, stage.name)
    labels = {**owner.labels(kind, stage.name), **more_labels}
    with contextlib.ExitStack() as stack:
        source_labels = {**owner.labels("source", stage.name), **more_labels}
        source_mounts: tuple[Mount, ...] = ()
        if source_plan is not None:
            source_mounts = open_source(engine, source_plan, name, source_labels, stack)
            workdir = workdir or stage.workdir or source_plan.container_root
        all_mounts = [*_stage_volumes(stage, source_plan), *source_mounts]
        all_mounts += mounts
        if watched and source_plan is not None:
            all_mounts += written_mount(source_plan, name)
        all_tmpfs = {**_stage_tmpfs(stage), **tmpfs}
        spec = ContainerSpec(
            image=image.image_id,
            command=tuple(command[1:]),
            entrypoint=tuple(command[:1]),
            labels=labels,
            name=name,
            env={**stage.env, **env},
            user=stage.user,
            workdir=workdir or stage.workdir,
            network=network or stage.network,
            mounts=tuple(all_mounts),
            tmpfs=all_tmpfs,
            read_only=stage.read_only,
            memory_bytes=stage.memory_bytes,
            nano_cpus=None if stage.cpus is None else round(stage.cpus * 1_000_000_000),
            pids=stage.pids,
            shm_size_bytes=stage.shm_size_bytes,
            ulimits=stage.ulimits,
            cap_drop=stage.cap_drop,
            runtime=stage.runtime,
            platform=stage.platform,
            stdin=stdin,
            # What is read as it comes (frames of a worker) is no log, and the engine takes as long to keep it.
            log="none" if attach or watched else None,
            ports=ports,
        )
        # Closed after the removal: the end of its input would make the container end by itself just then.
        streams = stack.enter_context(contextlib.ExitStack())
        with stage_errors(stage, command):
            container_id = create_owned(engine, spec, name, stack)
            if source_plan is not None:
                fill_source(
                    engine,
                    source_plan,
                    container_id,
                    source_mounts,
                    image=image.image_id,
                    labels=source_labels,
                    read_only=stage.read_only,
                )
            if network is not None and stage.network not in (None, "none"):
                engine.connect_network(stage.network, container_id)
            for path, archive in archives:
                engine.put_archive(container_id, path, archive)
            stream = None
            if attach:
                stream = engine.attach(container_id)
                streams.callback(stream.close)
            engine.start(container_id)
        return RunningContainer(
            engine,
            container_id,
            name,
            stream,
            stack.pop_all(),
            tuple(all_mounts),
            tuple(PurePosixPath(path) for path in all_tmpfs),
        )


def adopt(
    engine: Engine,
    container_id: str,
    name: str,
    volumes: Sequence[str],
    stream: Stream | None,
    mounts: tuple[Mount, ...],
) -> RunningContainer:
    """Own a container that another process has started.

    Args:
        volumes: The names of its own volumes, in the order in which they can be removed.
        stream: Attached to its main process.
        mounts: What is mounted in it.
    """
    stack = contextlib.ExitStack()
    for volume in reversed(volumes):
        stack.callback(remove_volume, engine, volume)
    if stream is not None:
        stack.callback(stream.close)
    stack.callback(remove_owned, engine.remove_container, container_id)
    return RunningContainer(engine, container_id, name, stream, stack, mounts)


def create_owned(
    engine: Engine,
    spec: ContainerSpec,
    name: str,
    stack: contextlib.ExitStack,
    create: Callable[[], str] | None = None,
) -> str:
    """Create a container whose removal is on ``stack``, also if the creation is interrupted.

    Args:
        create: How it is created; by default as ``spec`` says.
    """
    try:
        container_id = engine.create_container(spec) if create is None else create()
    except ConflictError:
        raise  # the name is someone else's: not ours to remove
    except BaseException:
        # Interrupted, or the answer was lost: the engine may have made it all the same.
        remove_owned(engine.remove_container, name)
        raise
    stack.callback(remove_owned, engine.remove_container, container_id)
    return container_id


def _stage_tmpfs(stage: Stage) -> dict[str, str]:
    parts = (entry.partition(":") for entry in stage.tmpfs)
    return {path: options for path, _, options in parts}


def _stage_volumes(stage: Stage, plan: SourcePlan | None) -> tuple[Mount, ...]:
    return tuple(
        _stage_volume(stage, text, plan.host_root if plan is not None else None) for text in stage.volumes
    )


def _stage_volume(stage: Stage, text: str, root: Path | None) -> Mount:
    """``SOURCE:/target[:ro|rw]`` or ``/target``; a source with a slash or a leading dot is a host path."""
    found = re.fullmatch(r"(?:(?P<source>.*?):)?(?P<target>/.*?)(?::(?P<mode>ro|rw))?", text, re.DOTALL)
    if found is None:
        raise StageError(
            f"stage {stage.name!r}: volumes: {text!r} is not 'SOURCE:/path[:ro]'",
            hint="name a volume or a host path, and the absolute path inside",
        )
    source, target = found["source"], PurePosixPath(found["target"])
    read_only = found["mode"] == "ro"
    if source and ("/" in source or source.startswith(".")):
        host = (root or Path.cwd()) / source
        return Mount("bind", str(host), target, read_only=read_only)
    return Mount("volume", source or None, target, read_only=read_only, no_copy=False)
