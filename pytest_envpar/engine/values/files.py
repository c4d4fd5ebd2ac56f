"""Files of a container."""

from __future__ import annotations

import dataclasses
import stat
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path, PurePosixPath


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
