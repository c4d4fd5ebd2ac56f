"""The short list of verbs we need from a container engine.

Everything above this package speaks only to :class:`Engine`; what its verbs take and give is in ``values``. They
follow the Docker Engine API (https://docs.docker.com/reference/api/engine/version/v1.41/), which Docker and Podman
both serve. All errors are :class:`~pytest_envpar.errors.EngineError` or one of its subclasses; foreign errors stay in
this package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path, PurePosixPath

    from pytest_envpar.engine.values.containers import ContainerInfo, LogLine, Stats
    from pytest_envpar.engine.values.create import ContainerSpec
    from pytest_envpar.engine.values.engine import EngineInfo, Listed
    from pytest_envpar.engine.values.files import LayerFolders, PathChange, PathStat
    from pytest_envpar.engine.values.images import ImageInfo
    from pytest_envpar.engine.values.origins import HistoryEntry, RemoteImage
    from pytest_envpar.engine.values.processes import ExecResult

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
