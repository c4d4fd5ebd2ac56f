"""Files of a container: one at a time, or copied from and to the side where the test runs.

An engine's archives pass by what lies on a tmpfs; single files there are read and written by commands inside.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from pytest_envpar.containers import handle_archive as archive
from pytest_envpar.containers.handle_commands import Commands
from pytest_envpar.containers.handle_paths import absolute, resolved
from pytest_envpar.errors import EngineError, NotFoundError, UsageError
from pytest_envpar.images import tarstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_envpar.containers.handle_paths import ContainerPath

_LINKS = 10
_ROOT = PurePosixPath("/")
_SHARED_MEMORY = PurePosixPath("/dev/shm")


class Files(Commands):
    """The files of :class:`~pytest_envpar.containers.handle.Container`."""

    def read_bytes(self, path: ContainerPath) -> bytes:
        """The content of a regular file, whatever its permissions; links are followed.

        Raises:
            FileNotFoundError: There is no such path.
            IsADirectoryError: It is a directory.
        """
        place = absolute(path)
        if self._is_hidden(place):
            done = self.exec(["cat", str(place)], check=True)
            return done.stdout
        for _ in range(_LINKS):
            try:
                return archive.read_file(self._get(place), place, self.most_held)
            except archive.LinkError as link:
                place = resolved(place, link.target)
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
        place = absolute(path)
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
        place = absolute(target)
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
        place = absolute(source)
        self._refuse_hidden(place, "copy_out")
        name = place.name
        for _ in range(_LINKS):
            try:
                return archive.extract(
                    self._get(place), place, Path(target), name=name, most=self.most_copied
                )
            except archive.LinkError as link:
                place = resolved(place, link.target)
        raise UsageError(f"{source} in the container: too many symbolic links")

    def unpack(self, target: ContainerPath, name: str, tar: IO[bytes]) -> None:
        """What :meth:`copy_in` does, of an archive whose members are ``copy`` and below; ``name`` is the source's.

        The engine extracts within the container, whatever the members are called.
        """
        place = absolute(target)
        self._refuse_hidden(place, "copy_in")
        found = self._engine.stat_path(self.id, place)
        if found is not None and found.is_directory:
            place = place / (name or "copy")
        uid, gid = self.recipe.ids
        self._put(
            place.parent,
            lambda prefix: archive.entries_in(tar, f"{prefix}{place.name}", uid, gid, self.most_copied),
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
