"""A container as tests use it: run commands, read and write files, stop, pause, checkpoint, compare.

    result = container.exec(["python3", "-c", "print(6 * 7)"], check=True)
    assert result.text == "42\\n"
    container.write("/etc/app.conf", "debug = true\\n")

Paths of the container are :class:`~pathlib.PurePosixPath` or text and absolute; host paths are :class:`~pathlib.Path`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol

from pytest_envpar.containers.handle_files import Files
from pytest_envpar.containers.handle_life import Address, Life
from pytest_envpar.containers.handle_paths import ContainerPath
from pytest_envpar.errors import NotYetError

if TYPE_CHECKING:
    from pytest_envpar.containers.checkpoint import Checkpoint
    from pytest_envpar.drift.changes import Changes
    from pytest_envpar.drift.manifest import Manifest
    from pytest_envpar.drift.model import Comparison

__all__ = ["Address", "Comparer", "Container", "ContainerPath"]


class Comparer(Protocol):
    """What the comparison of file systems offers; it lives above this package and is handed in."""

    def changes(self, container: Container) -> Changes: ...

    def diff(self, left: Container, right: Container) -> Comparison: ...

    def manifest(self, container: Container) -> Manifest: ...


class Container(Files, Life):
    """A running container of this run. A context manager: leaving removes it.

    Attributes:
        id: The engine's id.
        name: Its name on the engine.
        image: The exact image that it was made from.
        stage: The stage's name; ``None`` for a container of a plain image.

    Any number of threads may use it. Every method raises :class:`~pytest_envpar.errors.EngineError` if the engine
    fails, and :class:`~pytest_envpar.errors.NotFoundError` once the container is gone.
    """

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

    def changes(self) -> Changes:
        """What changed in its file system since it was made; mounts and what engines write themselves left out.

        Returns:
            Changes in the order of their paths, each with ``path`` and ``kind`` (``added``, ``removed``, ``modified``);
            apart from them ``noise``, which is never of interest (Python's bytecode, pytest's temporary folders).
        """
        return self._comparer.changes(self)

    def diff(self, other: Container) -> Comparison:
        """How the file system and the configuration of ``other`` differ from this one's.

        The project is left out; volumes and tmpfs are listed as not compared.

        Returns:
            A comparison: ``changes``, each with ``path``, ``kind``, ``attributes``, ``before`` and ``after``;
            ``config``; ``not_compared``; and ``route``, the way on which it was found.
        """
        return self._comparer.diff(self, other)

    def manifest(self) -> Manifest:
        """Every path of its file system; mounts left out.

        Returns:
            A manifest: iterating gives entries with ``path``, ``type``, ``mode``, ``uid``, ``gid``, ``size`` and
            ``digest``; ``count`` of them; a ``fingerprint`` that is the same for the same entries; and ``notes()``,
            what could not be read.
        """
        return self._comparer.manifest(self)

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @property
    def _comparer(self) -> Comparer:
        if self.recipe.comparer is None:
            raise NotYetError(f"{self.name}: comparing file systems is not available for this container")
        return self.recipe.comparer
