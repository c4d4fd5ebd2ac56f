"""Where a project's path lies on either side of the container."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path, PurePosixPath


@dataclasses.dataclass(frozen=True)
class PathMap:
    """The project root on the host and in the container. Most often they are the same."""

    host: Path
    container: PurePosixPath

    @property
    def same(self) -> bool:
        """Whether nothing has to be mapped."""
        return str(self.host) == str(self.container)

    def to_container(self, path: Path) -> PurePosixPath | None:
        """The container path of a host path; ``None`` outside the project."""
        try:
            return self.container / path.relative_to(self.host)
        except ValueError:
            return None

    def argument(self, argument: str) -> str:
        """A command line argument for the inside.

        Absolute paths below the project are mapped, alone or behind the ``=`` of an option; everything else is left
        alone, because only the inside knows what is a path.
        """
        if self.same:
            return argument
        name, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        host = str(self.host)
        if value == host or value.startswith((host + "/", host + "::")):
            return name + equals + str(self.container) + value[len(host) :]
        return argument

    def text(self, path: str) -> str:
        """A container path as it reads on the host; any other text is returned as it is."""
        if self.same:
            return path
        container = str(self.container)
        if path == container or path.startswith(container + "/"):
            return str(self.host) + path[len(container) :]
        return path
