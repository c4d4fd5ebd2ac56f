"""The short list of verbs we need from a container engine, and the values they take and give.

Everything above this package speaks only to :class:`Engine`. The verbs follow the Docker Engine API
(https://docs.docker.com/reference/api/engine/version/v1.41/), which Docker and Podman both serve. All errors
are :class:`~pytest_envpar.errors.EngineError` or one of its subclasses; foreign errors stay in this package.
"""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path, PurePosixPath

_NO_LABELS: Mapping[str, str] = MappingProxyType({})

Progress = Callable[[str], None]
"""Told one line of progress at a time (the begin and end of a pull, a build step)."""


@runtime_checkable
class Bars(Protocol):
    """A :data:`Progress` that can also show what changes all the time."""

    def __call__(self, line: str) -> None: ...

    def draw(self, lines: Sequence[str]) -> None:
        """Show lines in the place of those of the last call; none takes them away."""
        ...


@dataclasses.dataclass(frozen=True)
class EngineInfo:
    """What an engine says of itself.

    Args:
        kind: ``docker`` or ``podman``.
        url: The URL it was reached at, without credentials.
        local: Whether host paths mean the same thing to the engine as to us (unix socket of this machine and
            not an engine inside a virtual machine).
        security_rootless: Whether the engine runs without root.
        native_overlay: Whether the ``local`` volume driver can mount an overlay (Docker with overlay2).
    """

    kind: Literal["docker", "podman"]
    version: str
    api_version: str
    url: str
    local: bool
    rootless: bool
    native_overlay: bool
    cgroup_version: int
    os: str
    architecture: str
    id: str


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How the processes of an image or of a container are started.

    Args:
        ports: Exposed ports, ``80/tcp``, sorted.
        healthcheck: Its keys with values as text, empty without one; times in nanoseconds as the engine has them.
        stop_signal: As it was written; empty for the default.
        shell: Of the shell form of a Dockerfile's instructions; empty for the default.
        on_build: Dockerfile instructions for builds that start from the image. Docker has them, OCI images do not.
    """

    env: Mapping[str, str] = dataclasses.field(default_factory=lambda: _NO_LABELS)
    user: str = ""
    workdir: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = dataclasses.field(default_factory=lambda: _NO_LABELS)
    ports: tuple[str, ...] = ()
    healthcheck: Mapping[str, str] = dataclasses.field(default_factory=lambda: _NO_LABELS)
    stop_signal: str = ""
    shell: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ImageInfo:
    """An image as the engine knows it.

    ``layers`` are diff IDs, bottom first; ``digests`` are ``name@sha256:…``; ``created`` is RFC 3339, as the engine
    writes it; ``ports`` are the exposed ones (``5432/tcp``); ``health_check`` is the ``Test`` of the image's health
    check (``CMD`` and arguments, or ``CMD-SHELL`` and a command line), empty without one.
    """

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    layers: tuple[str, ...]
    os: str
    architecture: str
    variant: str
    env: Mapping[str, str]
    user: str
    workdir: str
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    volumes: tuple[str, ...]
    labels: Mapping[str, str]
    created: str = ""
    size_bytes: int | None = None
    ports: tuple[str, ...] = ()
    health_check: tuple[str, ...] = ()
    config: RunConfig = dataclasses.field(default_factory=RunConfig)


@dataclasses.dataclass(frozen=True)
class HistoryEntry:
    """One step of an image's history.

    Args:
        created_by: The step in its builder's own words.
        size_bytes: What it added. 0 may be a step without a layer, or one whose layer holds no file's content.
        image_id: The image that it ended with, if this engine built it; empty if not. Podman's may be that of another
            step.
        comment: What the builder or an import noted.
    """

    created_by: str
    size_bytes: int
    image_id: str = ""
    comment: str = ""


@dataclasses.dataclass(frozen=True)
class RemoteImage:
    """What a registry serves under a reference, without anything being pulled.

    Args:
        reference: As it was asked for.
        digest: ``sha256:…`` of the manifest; for an image of several platforms that of its index.
        platforms: ``os/arch[/variant]`` of each image in it; empty where the registry does not say.
    """

    reference: str
    digest: str
    platforms: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Mount:
    """A mount of a container.

    Args:
        kind: ``bind`` (``source`` is an engine-host path), ``volume`` (``source`` is a volume's name, or
            ``None`` for an anonymous one removed with the container) or ``overlay`` (Podman's own: ``source``
            is a host path, changes are discarded with the container).
        target: Container path.
        no_copy: Do not fill a new volume with what the image has at ``target``.
    """

    kind: Literal["bind", "volume", "overlay"]
    source: str | None
    target: PurePosixPath
    read_only: bool = False
    no_copy: bool = True


@dataclasses.dataclass(frozen=True)
class ContainerSpec:
    """What to create. Sizes in bytes; ``tmpfs`` maps container paths to mount options.

    ``aliases`` are more names of the container in its ``network``. ``readable_log`` keeps the log where
    :meth:`Engine.follow_logs` finds it, whatever the engine's own choice is. ``no_new_privileges`` keeps set-user-id
    programs inside from gaining rights. ``ports`` (``5432/tcp``) are published on ports of the loopback address that
    the engine chooses. ``processes_of`` is a container whose processes it sees as its own, and which it does not
    outlive.
    """

    image: str
    command: tuple[str, ...]
    labels: Mapping[str, str]
    name: str | None = None
    entrypoint: tuple[str, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=lambda: _NO_LABELS)
    user: str | None = None
    workdir: PurePosixPath | None = None
    hostname: str | None = None
    network: str | None = None
    aliases: tuple[str, ...] = ()
    readable_log: bool = False
    mounts: tuple[Mount, ...] = ()
    tmpfs: Mapping[str, str] = dataclasses.field(default_factory=lambda: _NO_LABELS)
    read_only: bool = False
    memory_bytes: int | None = None
    nano_cpus: int | None = None
    pids: int | None = None
    shm_size_bytes: int | None = None
    ulimits: Mapping[str, int] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    runtime: str | None = None
    platform: str | None = None
    stdin: bool = False
    init: bool = False
    no_new_privileges: bool = True
    ports: tuple[str, ...] = ()
    processes_of: str = ""


@dataclasses.dataclass(frozen=True)
class ContainerInfo:
    """A container's state. ``exit_code`` is ``None`` until it has ended.

    ``oom_killed`` is the engine's word for the main process only; Podman on cgroup v1 never says it. ``ports`` maps
    ``5432/tcp`` to the addresses of the engine's host that it is published at; ``health`` is ``starting``, ``healthy``,
    ``unhealthy``, or empty without a health check. ``mounts`` are container paths at which something else than the
    image's files is seen, each with what it is (``volume``, ``bind``, ``tmpfs``). ``cap_drop`` are capabilities that
    its processes do not have, as they were named. ``own_processes`` is False if it sees those of another container or
    of the host. ``finished_at`` is when it ended, in seconds since 1970 by the engine's clock.
    """

    id: str
    name: str
    image_id: str
    running: bool
    status: str
    exit_code: int | None
    oom_killed: bool
    error: str
    labels: Mapping[str, str]
    ip_addresses: Mapping[str, str]
    ports: Mapping[str, tuple[tuple[str, int], ...]] = dataclasses.field(
        default_factory=lambda: MappingProxyType({})
    )
    health: str = ""
    config: RunConfig = dataclasses.field(default_factory=RunConfig)
    mounts: Mapping[str, str] = dataclasses.field(default_factory=lambda: _NO_LABELS)
    cap_drop: tuple[str, ...] = ()
    own_processes: bool = True
    finished_at: float = 0.0


@dataclasses.dataclass(frozen=True)
class Listed:
    """A labelled object in a listing: a container, image, volume or network."""

    id: str
    name: str
    labels: Mapping[str, str]
    status: str = ""


@dataclasses.dataclass(frozen=True)
class ExecResult:
    """What a finished command left."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as UTF-8; what is none is replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """Standard error as UTF-8; what is none is replaced."""
        return self.stderr.decode("utf-8", "replace")

    @property
    def ok(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0


@dataclasses.dataclass(frozen=True)
class Stats:
    """What a container uses at this moment; 0 where the engine does not tell.

    Args:
        cpu_s: Processor time since its start, in seconds.
        memory_bytes: In use, without the page cache.
        memory_limit_bytes: The limit, which is the machine's memory where there is none.
        pids: Processes and threads.
        received_bytes: Over all of its networks.
        sent_bytes: Over all of its networks.
    """

    cpu_s: float
    memory_bytes: int
    memory_limit_bytes: int
    pids: int
    received_bytes: int
    sent_bytes: int


@dataclasses.dataclass(frozen=True)
class PathStat:
    """One path of a container as the engine tells it: type and permissions as in ``stat.st_mode``."""

    mode: int
    size: int
    link_target: str = ""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory; a link to one is none."""
        return stat.S_ISDIR(self.mode)


@dataclasses.dataclass(frozen=True)
class LogLine:
    """A line that a container's main process wrote.

    Args:
        time: When at the earliest, in seconds since 1970 by the engine's clock, which is that of its containers; 0 if
            not told.
        text: Without the end of the line.
        latest: When at the latest: some engines tell whole seconds only.
    """

    time: float
    text: bytes
    latest: float


@dataclasses.dataclass(frozen=True)
class PathChange:
    """A path of a container that differs from its image, as the engine tells it."""

    path: PurePosixPath
    kind: Literal["added", "removed", "modified"]


@dataclasses.dataclass(frozen=True)
class LayerFolders:
    """Where an overlay engine on this machine keeps a container's layers.

    Args:
        upper: The container's own writable layer (host).
        lower: The layers below it, the topmost first (host).
    """

    upper: Path
    lower: tuple[Path, ...]


class Stream(Protocol):
    """The duplex stream of a container's main process or of an exec: attach once, never re-attach."""

    def read(self, timeout_s: float | None = None) -> tuple[int, bytes] | None:
        """Wait for the next piece of output.

        Args:
            timeout_s: Seconds to wait; ``None`` waits for ever.

        Returns:
            ``(1, data)`` for standard output, ``(2, data)`` for standard error, ``(0, b"")`` at the end of
            the stream (also when the container or the engine went away), ``None`` if the time is up.
        """
        ...

    def write(self, data: bytes) -> None:
        """Send all of ``data`` to standard input. Raises ConnectionLostError if the other side is gone."""
        ...

    def close_write(self) -> None:
        """End standard input; output can still be read."""
        ...

    def close(self) -> None:
        """Close both directions. Never blocks; safe to call twice."""
        ...


class Engine(Protocol):
    """One container engine. Every call may raise EngineError; ids are full ids unless said otherwise."""

    @property
    def info(self) -> EngineInfo: ...

    def inspect_image(self, reference: str) -> ImageInfo | None:
        """The image with this reference or id; ``None`` if the engine does not have it."""
        ...

    def image_history(self, image: str) -> tuple[HistoryEntry, ...]:
        """The steps that made an image, the first one first (``GET /images/{name}/history``)."""
        ...

    def pull(self, reference: str, *, platform: str | None = None, progress: Progress | None = None) -> None:
        """Pull by tag or digest, with credentials from the user's Docker configuration.

        What may be over soon (a busy registry, a connection that broke off) is tried again a few times, and told.
        ``progress`` is told one line at the end; if it can draw (:class:`Bars`), it is given bars meanwhile.
        """
        ...

    def remote_image(self, reference: str) -> RemoteImage | None:
        """Ask the reference's registry what it serves; ``None`` from an engine that has no such call (Podman)."""
        ...

    def build(
        self,
        context: Iterable[bytes],
        *,
        dockerfile: str,
        tag: str | None,
        target: str | None = None,
        args: Mapping[str, str] = _NO_LABELS,
        labels: Mapping[str, str] = _NO_LABELS,
        platform: str | None = None,
        buildkit: bool = True,
        progress: Progress | None = None,
    ) -> str:
        """Build from a tar stream and return the image id. A failed step raises EngineError whose ``detail``
        has the failing step and the tail of its output. ``dockerfile`` is its path inside the tar; ``buildkit``
        says whether an engine that has BuildKit may use it."""
        ...

    def create_layer(self, image: ImageInfo, spec: ContainerSpec) -> str:
        """Create a container whose changes :meth:`commit_layer` makes an image of, and return its id.

        It is configured as ``image`` is, so that nothing of it gets into the new one; of ``spec`` count the entrypoint,
        labels, name, mounts, network, platform and runtime."""
        ...

    def commit_layer(self, container: str, image: ImageInfo, *, tag: str, labels: Mapping[str, str]) -> None:
        """Make ``tag``: ``image`` with one more layer, what is different in ``container``. The configuration is that of
        ``image`` but for added ``labels``."""
        ...

    def tag_image(self, image: str, tag: str) -> None: ...

    def save_image(self, image: str) -> Iterable[bytes]:
        """An image with all its layers as a tar stream, for :meth:`load_image` of another engine."""
        ...

    def load_image(self, tar: Iterable[bytes]) -> None:
        """Take an image from a tar stream of :meth:`save_image`; by its id it has no tag then."""
        ...

    def remove_image(self, image: str, *, force: bool = False) -> None: ...

    def create_container(self, spec: ContainerSpec) -> str: ...

    def attach(self, container: str) -> Stream:
        """Attach to a created container before it is started (stdin, stdout, stderr)."""
        ...

    def start(self, container: str) -> None: ...

    def exec(
        self,
        container: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] = _NO_LABELS,
        user: str | None = None,
        workdir: PurePosixPath | None = None,
        input: bytes | None = None,  # noqa: A002 - the name that subprocess.run has
        timeout_s: float | None = None,
    ) -> ExecResult: ...

    def exec_stream(
        self,
        container: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] = _NO_LABELS,
        user: str | None = None,
        workdir: PurePosixPath | None = None,
    ) -> Stream: ...

    def open_exec(
        self,
        container: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] = _NO_LABELS,
        user: str | None = None,
        workdir: PurePosixPath | None = None,
        stdin: bool = True,
    ) -> tuple[str, Stream]:
        """As :meth:`exec_stream`, and the id by which the command's exit code is asked for."""
        ...

    def open_terminal(
        self, container: str, command: Sequence[str], *, env: Mapping[str, str] = _NO_LABELS
    ) -> tuple[str, Stream]:
        """As :meth:`open_exec`, in a terminal: both outputs are one, all of it is standard output of the stream."""
        ...

    def resize_terminal(self, exec_id: str, *, rows: int, columns: int) -> None: ...

    def exec_exit_code(self, exec_id: str) -> int | None:
        """The exit code of a command; ``None`` while it runs."""
        ...

    def inspect_container(self, container: str) -> ContainerInfo: ...

    def wait(self, container: str, *, timeout_s: float | None = None) -> int:
        """Wait until the container has ended; returns its exit code. TimeoutError if the time is up."""
        ...

    def wait_removed(self, container: str, *, timeout_s: float | None = None) -> None:
        """Wait until the container is gone; at once if it is. TimeoutError if the time is up."""
        ...

    def logs(self, container: str, *, tail: int | None = None, since: float | None = None) -> bytes:
        """What the main process wrote, both streams: the last ``tail`` lines, or all since a time (Unix seconds)."""
        ...

    def follow_logs(self, container: str) -> Iterator[LogLine]:
        """The lines that the main process of a started container wrote and writes, each as it comes; ends with the
        container. What is written in the last moment may be missing: :meth:`logs` has it."""
        ...

    def kill(self, container: str, signal: str = "KILL") -> None: ...

    def stop(self, container: str, *, timeout_s: float = 10.0) -> None:
        """Send the stop signal, and kill after ``timeout_s`` (whole seconds). A container that has ended is fine."""
        ...

    def restart(self, container: str, *, timeout_s: float = 10.0) -> None: ...

    def pause(self, container: str) -> None: ...

    def unpause(self, container: str) -> None: ...

    def stats(self, container: str) -> Stats: ...

    def commit(
        self,
        container: str,
        reference: str,
        *,
        labels: Mapping[str, str] = _NO_LABELS,
        entrypoint: Sequence[str] = (),
        command: Sequence[str] = (),
        comment: str = "",
    ) -> str:
        """Make an image of the container's file system and return its id; processes are paused meanwhile.

        Volumes and tmpfs are not part of it. The image is configured as the container is, except for the labels
        that are added, and ``entrypoint`` and ``command``, which replace the container's own. ``comment`` says in its
        history how the layer came to be.
        """
        ...

    def rename(self, container: str, name: str) -> None: ...

    def remove_container(self, container: str) -> None:
        """Kill if needed, and remove with its anonymous volumes. A container that is already gone is fine."""
        ...

    def changes(self, container: str) -> tuple[PathChange, ...]:
        """Paths that differ from the image (``GET /containers/{id}/changes``), sorted by path."""
        ...

    def layer_folders(self, container: str) -> LayerFolders | None:
        """The container's layers as folders that this process can read; ``None`` where it cannot."""
        ...

    def image_folders(self, image: str) -> tuple[Path, ...] | None:
        """The image's layers as folders that this process can read, the lowest first and as many as its diff IDs;
        ``None`` where it cannot."""
        ...

    def export(self, container: str) -> Iterable[bytes]:
        """A tar stream of the container's whole file system without what is mounted in it, whatever its state. The
        engine leaves out sockets and, but for capabilities, most extended attributes."""
        ...

    def put_archive(self, container: str, path: PurePosixPath, tar: bytes | Iterable[bytes]) -> None:
        """Extract a tar at a container path; works on created, running and stopped containers. A path that is
        not there is an error on Docker and is made on Podman."""
        ...

    def get_archive(self, container: str, path: PurePosixPath) -> Iterable[bytes]:
        """A tar stream of a container path. NotFoundError if the path does not exist."""
        ...

    def stat_path(self, container: str, path: PurePosixPath) -> PathStat | None:
        """What a container path is, without following a link; ``None`` if there is nothing."""
        ...

    def create_volume(
        self, name: str, *, labels: Mapping[str, str], options: Mapping[str, str] = _NO_LABELS
    ) -> PurePosixPath:
        """Create a ``local`` volume and return its mount point on the engine's host. An existing volume of
        that name is returned as it is."""
        ...

    def inspect_volume(self, name: str) -> Listed | None: ...

    def remove_volume(self, name: str) -> None:
        """Remove a volume. One that is already gone is fine; one in use raises ConflictError."""
        ...

    def list_containers(self, labels: Mapping[str, str]) -> tuple[Listed, ...]:
        """All containers, running or not, that carry all these labels (an empty value matches any value)."""
        ...

    def list_images(self, labels: Mapping[str, str]) -> tuple[Listed, ...]: ...

    def list_tagged(self, repository: str) -> tuple[Listed, ...]:
        """All images that have a tag in ``repository``, by one such tag each."""
        ...

    def list_volumes(self, labels: Mapping[str, str]) -> tuple[Listed, ...]: ...

    def create_network(self, name: str, *, labels: Mapping[str, str], internal: bool = False) -> str:
        """Create a bridge network whose containers find each other by their aliases, and return its id.

        Args:
            internal: Whether there is no way out of it.

        Raises:
            ConflictError: There is one of this name.
        """
        ...

    def connect_network(self, network: str, container: str, *, aliases: Sequence[str] = ()) -> None:
        """Connect a container, which need not run yet, to one more network."""
        ...

    def list_networks(self, labels: Mapping[str, str]) -> tuple[Listed, ...]: ...

    def remove_network(self, network: str) -> None:
        """Remove a network. One that is already gone is fine; one in use is an error."""
        ...

    def cancel(self) -> None:
        """End all calls that are under way, from any thread, and refuse new ones: they raise EngineError.
        Removals still work. Streams that were handed out are not touched."""
        ...

    def close(self) -> None:
        """Release connections, and end an engine process that we started ourselves."""
        ...
