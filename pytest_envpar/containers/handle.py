"""A container as tests use it: run commands, read and write files, stop, pause, checkpoint, compare.

    result = container.exec(["python3", "-c", "print(6 * 7)"], check=True)
    assert result.text == "42\\n"
    container.write("/etc/app.conf", "debug = true\\n")

Paths of the container are :class:`~pathlib.PurePosixPath` or text and absolute; host paths are :class:`~pathlib.Path`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import time
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from pytest_envpar.containers import handle_archive as archive
from pytest_envpar.containers.handle_process import Process, failure, tail
from pytest_envpar.errors import EngineError, NotFoundError, NotYetError, UsageError
from pytest_envpar.images import tarstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from ipaddress import IPv4Address, IPv6Address

    from pytest_envpar.containers.checkpoint import Checkpoint
    from pytest_envpar.containers.lifecycle import RunningContainer
    from pytest_envpar.containers.recipe import Recipe
    from pytest_envpar.engine.api import ContainerInfo, ExecResult, Stats
    from pytest_envpar.images.pinned import PinnedImage

ContainerPath: TypeAlias = PurePosixPath | str

_NOTHING: Mapping[str, str] = MappingProxyType({})
_POLL_S = 0.02
_READY_S = 60.0
_LINKS = 10
_ROOT = PurePosixPath("/")
_SHARED_MEMORY = PurePosixPath("/dev/shm")


class Address(NamedTuple):
    """Where a published port is reached; fits ``socket.create_connection``."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Comparer(Protocol):
    """What the comparison of file systems offers; it lives above this package and is handed in."""

    def changes(self, container: Container) -> Any: ...

    def diff(self, left: Container, right: Container) -> Any: ...

    def manifest(self, container: Container) -> Any: ...


class Container:
    """A running container of this run. A context manager: leaving removes it.

    Attributes:
        id: The engine's id.
        name: Its name on the engine.
        image: The exact image that it was made from.
        stage: The stage's name; ``None`` for a container of a plain image.

    Any number of threads may use it. Every method raises :class:`~pytest_envpar.errors.EngineError` if the engine
    fails, and :class:`~pytest_envpar.errors.NotFoundError` once the container is gone.
    """

    def __init__(self, recipe: Recipe, running: RunningContainer) -> None:
        self.id = running.id
        self.name = running.name
        self.image: PinnedImage = recipe.image
        self.stage: str | None = recipe.named
        self.recipe = recipe
        self.running = running
        self.kept = False
        self._engine = recipe.engine

    def __repr__(self) -> str:
        return f"<Container {self.name} of {self.stage or self.image.short()}>"

    # Commands

    def exec(
        self,
        args: Sequence[str],
        *,
        input: bytes | None = None,  # noqa: A002 - the name that subprocess.run has
        env: Mapping[str, str] = _NOTHING,
        user: str | None = None,
        workdir: ContainerPath | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> ExecResult:
        """Run a command to its end.

        Args:
            args: The program and its arguments; no shell is between.
            input: Bytes for standard input; without any the command has none.
            env: Added to the container's environment.
            user: ``name``, ``uid`` or ``uid:gid``; the container's own by default.
            workdir: Container path; the container's own by default.
            timeout: Seconds until the command is killed with all that it has started.
            check: Whether another exit code than 0 is an error.

        Returns:
            ``exit_code``, ``stdout`` and ``stderr`` as bytes, and as text ``text`` and ``error_text``.

        Raises:
            CommandError: ``check`` was set and the command failed. It has the exit code and the output.
            CommandTimeoutError: The time was up; it is a TimeoutError, too.
        """
        process = self._run(args, env, user, workdir, stdin=input is not None, killable=timeout is not None)
        result = process.communicate(input, timeout)
        if check and result.exit_code:
            raise failure(process.args, result)
        return result

    def popen(
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str] = _NOTHING,
        user: str | None = None,
        workdir: ContainerPath | None = None,
    ) -> Process:
        """Start a command and return at once; see :meth:`exec` for the arguments.

        With ``with container.popen([...]) as process:`` it is killed at the end of the block at the latest.
        """
        return self._run(args, env, user, workdir, stdin=True, killable=True)

    # Files

    def read_bytes(self, path: ContainerPath) -> bytes:
        """The content of a regular file, whatever its permissions; links are followed.

        Raises:
            FileNotFoundError: There is no such path.
            IsADirectoryError: It is a directory.
        """
        place = _absolute(path)
        if self._is_hidden(place):
            done = self.exec(["cat", str(place)], check=True)
            return done.stdout
        for _ in range(_LINKS):
            try:
                return archive.read_file(self._get(place), place)
            except archive.LinkError as link:
                place = _resolved(place, link.target)
        raise UsageError(f"{path} in the container: too many symbolic links")

    def read_text(self, path: ContainerPath, encoding: str = "utf-8") -> str:
        """The content of a text file; see :meth:`read_bytes`."""
        return self.read_bytes(path).decode(encoding)

    def write(self, path: ContainerPath, data: bytes | str, *, mode: int = 0o644) -> None:
        """Write a file, in the place of what is there; it belongs to the container's user.

        Args:
            path: Container path; folders on the way are made.
            data: Its content; text becomes UTF-8.
            mode: Its permissions.
        """
        content = data.encode() if isinstance(data, str) else bytes(data)
        place = _absolute(path)
        if self._is_hidden(place):
            self._write_through(place, content, mode)
            return
        uid, gid = self.recipe.ids
        self._put(
            place.parent,
            lambda prefix: [tarstream.bytes_file(f"{prefix}{place.name}", content, mode, uid, gid)],
        )

    def copy_in(self, source: Path, target: ContainerPath) -> None:
        """Copy a file or a folder of the side where the test runs into the container.

        Args:
            source: Path of the test's side (the host in a plain run). Links are copied as links.
            target: Container path: an existing folder takes the copy under its own name; else the copy's name.

        Raises:
            UsageError: The source cannot be read, or the target is on a tmpfs, which an engine cannot reach.
        """
        source = Path(source)
        place = _absolute(target)
        self._refuse_hidden(place, "copy_in")
        found = self._engine.stat_path(self.id, place)
        if found is not None and found.is_directory:
            place = place / source.name
        uid, gid = self.recipe.ids

        def entries(prefix: str) -> Iterable[tarstream.Entry]:
            for entry in archive.entries_of(source, f"{prefix}{place.name}"):
                yield dataclasses.replace(entry, uid=uid, gid=gid)

        archive.check_readable(source)
        self._put(place.parent, entries)

    def copy_out(self, source: ContainerPath, target: Path) -> Path:
        """Copy a file or a folder of the container to the side where the test runs.

        Args:
            source: Container path.
            target: Path of the test's side: an existing folder takes the copy under its own name; else the copy's name.
                Nothing is written anywhere else, whatever names the container has; links that lead out of the copy,
                devices and set-id bits stay behind.

        Returns:
            The copy's path.

        Raises:
            FileNotFoundError: There is no such path in the container.
            UsageError: The target cannot be written.
        """
        place = _absolute(source)
        self._refuse_hidden(place, "copy_out")
        for _ in range(_LINKS):
            try:
                return archive.extract(self._get(place), place, Path(target))
            except archive.LinkError as link:
                place = _resolved(place, link.target)
        raise UsageError(f"{source} in the container: too many symbolic links")

    # What it says and where it is

    def logs(self, *, since: float | None = None, tail: int | None = None) -> str:
        """What the main process wrote on both streams, as UTF-8.

        Args:
            since: Only what was written after this time (``time.time()``).
            tail: Only the last lines.
        """
        return self._engine.logs(self.id, since=since, tail=tail).decode("utf-8", "replace")

    def port(self, container_port: int, protocol: str = "tcp") -> Address:
        """Where a published port is reached: always an address of the loopback interface.

        Raises:
            UsageError: The port is not published.
        """
        ports = self.inspect().ports
        places = ports.get(f"{container_port}/{protocol}", ())
        if not places:
            raise UsageError(
                f"{self.name}: port {container_port}/{protocol} is not published"
                + (f" (published: {', '.join(sorted(ports))})" if ports else ""),
                hint=f"ask for it: envpar_containers.start(..., ports=[{container_port}])",
            )
        host, port = places[0]
        return Address(host if host not in ("", "0.0.0.0") else "127.0.0.1", port)

    def ip(self, network: str | None = None) -> IPv4Address | IPv6Address:
        """Its address on a network; on its only one by default.

        Raises:
            UsageError: It is not on that network, or on none.
        """
        addresses = self.inspect().ip_addresses
        text = addresses.get(network) if network is not None else next(iter(addresses.values()), None)
        if not text:
            where = f"on the network {network!r}" if network is not None else "on any network"
            raise UsageError(f"{self.name} is not {where}", hint="see the stage's key 'network'")
        return ipaddress.ip_address(text)

    def inspect(self) -> ContainerInfo:
        """Its state now."""
        return self._engine.inspect_container(self.id)

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until it runs and, where its image has a health check, until that is content.

        Args:
            timeout: Seconds; 60 by default.

        Raises:
            EngineError: It ended meanwhile, or is unhealthy; the end of its log is part of the error.
            TimeoutError: The time is up.
        """
        limit = _READY_S if timeout is None else timeout
        deadline = time.monotonic() + limit
        while True:
            info = self.inspect()
            if info.running and info.health in ("", "healthy"):
                return
            if info.exit_code is not None or info.health == "unhealthy":
                what = "is unhealthy" if info.running else f"ended with exit code {info.exit_code}"
                raise EngineError(
                    f"{self.name} {what} and is not ready",
                    detail=tail(self._engine.logs(self.id, tail=20), b""),
                )
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} was not ready within {limit:g} s")
            time.sleep(_POLL_S)

    def stats(self) -> Stats:
        """What it uses now: processor, memory, processes, network."""
        return self._engine.stats(self.id)

    # Its life

    def kill(self, signal: str = "KILL") -> None:
        """Send a signal to its main process."""
        self._engine.kill(self.id, signal)

    def stop(self, timeout: float = 10.0) -> None:
        """Ask the main process to end, and kill it after ``timeout`` (whole seconds)."""
        self._engine.stop(self.id, timeout_s=timeout)

    def restart(self) -> None:
        """Stop and start it again; files stay, tmpfs is emptied, published ports may change."""
        self._engine.restart(self.id)

    def pause(self) -> None:
        """Freeze all of its processes."""
        self._engine.pause(self.id)

    def unpause(self) -> None:
        """Let its processes go on."""
        self._engine.unpause(self.id)

    def remove(self) -> None:
        """Kill and remove it with its volumes. Safe to repeat; whoever started it does so in any case."""
        self.running.remove()

    # Its past, and others

    def checkpoint(self, name: str) -> Checkpoint:
        """Keep its file system under a name; processes, tmpfs and volumes (the project's too) are not part of it.

        Args:
            name: Letters, digits, ``.``, ``_`` and ``-``; unique in the project. A second one takes the name over.

        Raises:
            UsageError: The name cannot be one.
        """
        from pytest_envpar.containers import checkpoint

        return checkpoint.take(self, name)

    def restore(self, checkpoint: Checkpoint) -> Container:
        """A new container, started as this one was, with the files of the checkpoint.

        This one is left as it is. Whoever asks for the new one removes it: use it as a context manager.

        Raises:
            UsageError: The checkpoint's image is gone.
        """
        from pytest_envpar.containers.checkpoint import image_of

        return dataclasses.replace(self.recipe, image=image_of(self._engine, checkpoint)).start()

    def changes(self) -> Any:
        """What changed in its file system since it was made; mounts and what engines write themselves left out.

        Returns:
            Changes in the order of their paths, each with ``path`` and ``kind`` (``added``, ``removed``, ``modified``).
        """
        return self._comparer.changes(self)

    def diff(self, other: Container) -> Any:
        """How the file system and the configuration of ``other`` differ from this one's; mounts left out.

        Returns:
            A comparison: ``changes``, each with ``path``, ``kind``, ``attributes``, ``before`` and ``after``;
            ``config``; ``not_compared``; and ``route``, the way on which it was found.
        """
        return self._comparer.diff(self, other)

    def manifest(self) -> Any:
        """Every path of its file system; mounts left out.

        Returns:
            A manifest: iterating gives entries with ``path``, ``type``, ``mode``, ``uid``, ``gid``, ``size`` and
            ``digest``.
        """
        return self._comparer.manifest(self)

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    # Inner workings

    @property
    def _comparer(self) -> Comparer:
        if self.recipe.comparer is None:
            raise NotYetError(f"{self.name}: comparing file systems is not available for this container")
        return self.recipe.comparer

    def unpack(self, target: ContainerPath, name: str, tar: IO[bytes]) -> None:
        """What :meth:`copy_in` does, of an archive whose members are ``copy`` and below; ``name`` is the source's.

        The engine extracts within the container, whatever the members are called.
        """
        place = _absolute(target)
        self._refuse_hidden(place, "copy_in")
        found = self._engine.stat_path(self.id, place)
        if found is not None and found.is_directory:
            place = place / (name or "copy")
        uid, gid = self.recipe.ids
        self._put(place.parent, lambda prefix: archive.entries_in(tar, f"{prefix}{place.name}", uid, gid))

    def _run(
        self,
        args: Sequence[str],
        env: Mapping[str, str],
        user: str | None,
        workdir: ContainerPath | None,
        *,
        stdin: bool,
        killable: bool,
    ) -> Process:
        if isinstance(args, (str, bytes)) or not args:
            raise UsageError(
                f"exec takes a program and its arguments as a list, not {args!r}",
                hint="for a shell's line: ['sh', '-c', line]",
            )
        place = None if workdir is None else _absolute(workdir)
        return Process(
            self._engine,
            self.id,
            [str(arg) for arg in args],
            env=env,
            user=user,
            workdir=place,
            stdin=stdin,
            killable=killable,
        )

    def _get(self, place: PurePosixPath) -> Iterable[bytes]:
        try:
            return self._engine.get_archive(self.id, place)
        except NotFoundError as error:
            self.inspect()  # tells a path that is not there from a container that is not there
            raise FileNotFoundError(f"{place} does not exist in {self.name}") from error
        except EngineError as error:
            if "too many" in error.message:  # what both engines say of a loop
                raise UsageError(f"{place} in the container: too many symbolic links") from error
            raise

    def _put(self, folder: PurePosixPath, entries: Callable[[str], Iterable[tarstream.Entry]]) -> None:
        # Podman makes a folder that is not there, for root.
        if self._engine.info.kind != "podman" or self._engine.stat_path(self.id, folder) is not None:
            try:
                self._engine.put_archive(self.id, folder, tarstream.tar(entries("")))
                return
            except NotFoundError:
                self.inspect()
        # The folder is not there: the archive brings it along, below the first that is.
        missing: list[str] = []
        while folder != _ROOT and self._engine.stat_path(self.id, folder) is None:
            missing.insert(0, folder.name)
            folder = folder.parent
        uid, gid = self.recipe.ids
        prefix = "".join(f"{name}/" for name in missing)

        def everything() -> Iterable[tarstream.Entry]:
            for number in range(len(missing)):
                yield tarstream.directory(
                    "/".join(missing[: number + 1]) + "/", 0o755, uid, gid, int(time.time())
                )
            yield from entries(prefix)

        self._engine.put_archive(self.id, folder, tarstream.tar(everything()))

    def _is_hidden(self, place: PurePosixPath) -> bool:
        """Whether an engine's archives pass by: they see neither a tmpfs nor what lies on it."""
        hidden = (*self.running.tmpfs, _SHARED_MEMORY)
        return any(path == place or path in place.parents for path in hidden)

    def _refuse_hidden(self, place: PurePosixPath, what: str) -> None:
        if self._is_hidden(place):
            raise UsageError(
                f"{what}: {place} is on a tmpfs, which the engine cannot reach",
                hint="use another folder, or a command inside: exec(['tar', '-x', '-C', …], input=…)",
            )

    def _write_through(self, place: PurePosixPath, content: bytes, mode: int) -> None:
        # What could not be written whole is not left there, above all where there is no room.
        script = (
            'mkdir -p "$(dirname "$1")" && rm -f "$1" || exit; '
            'cat > "$1" && chmod "$2" "$1" || { code=$?; rm -f "$1"; exit $code; }'
        )
        self.exec(["sh", "-c", script, "sh", str(place), f"{mode:o}"], input=content, check=True)


def _absolute(path: ContainerPath) -> PurePosixPath:
    place = PurePosixPath(path)
    if not place.is_absolute() or "\0" in str(place):
        raise UsageError(f"{path!s} is no absolute path of a container", hint="begin it with /")
    return _normal(place)


def _resolved(place: PurePosixPath, target: str) -> PurePosixPath:
    """Where a symbolic link at ``place`` leads."""
    return _normal(place.parent / target)


def _normal(place: PurePosixPath) -> PurePosixPath:
    parts: list[str] = []
    for part in place.parts[1:]:
        if part == "..":
            parts = parts[:-1]
        else:
            parts.append(part)
    return PurePosixPath("/", *parts)
