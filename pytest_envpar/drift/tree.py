"""Looking into a file system at single paths, wherever it is: what package databases are read through.

A tree is one side of a comparison. Its content is not trusted: paths are those of the tree, never of the host, and
every read has a limit.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Protocol

from pytest_envpar.errors import EnvparError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_envpar.drift.model import Type

_MAX_LINKS = 40


class TooLargeError(EnvparError):
    """A file or folder is larger than what its reader takes."""

    code = "too-large"


class Tree(Protocol):
    """Files of one side. Paths are absolute text as in an :class:`~pytest_envpar.drift.model.Entry`; symbolic links
    on the way and at the end are followed, inside the tree only."""

    def read(self, path: str, limit: int) -> bytes | None:
        """The content of a regular file.

        Args:
            limit: Bytes.

        Returns:
            All of it; ``None`` if there is no regular file of that name.

        Raises:
            TooLargeError: It is longer than ``limit``.
            EngineError: The engine behind the tree failed.
        """
        ...

    def list(self, folder: str) -> tuple[str, ...]:
        """Names in a folder, sorted; empty if there is no such folder. Raises as :meth:`read`."""
        ...


def resolve(path: str, look: Callable[[str], tuple[Type, str] | None]) -> str | None:
    """Follow the symbolic links of a path inside its tree.

    Args:
        look: Says what is at a path whose parents are no links: its type, and the target if it is a link.

    Returns:
        A path without links; ``None`` if it does not exist or its links lead in a circle.
    """
    todo = [part for part in reversed(path.split("/")) if part]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done[:-1]
            continue
        at = "/" + "/".join([*done, part])
        found = look(at)
        if found is None:
            return None
        kind, target = found
        if kind != "link":
            if todo and kind != "directory":
                return None
            done.append(part)
            continue
        links += 1
        if links > _MAX_LINKS or len(todo) > 4096:
            return None
        if target.startswith("/"):
            done = []
        todo += [each for each in reversed(target.split("/")) if each]
    return "/" + "/".join(done)


def read_file(file: str, path: str, limit: int) -> bytes | None:
    """The content of a regular file of this machine; never opens a FIFO or a device, follows no link at the end.

    Args:
        file: The file (host).
        path: What it is called in an error.
    """
    try:
        if not stat.S_ISREG(os.lstat(file).st_mode):
            return None
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        data = opened.read(limit + 1)
    if len(data) > limit:
        raise too_large(path, limit)
    return data


def too_large(path: str, limit: int) -> TooLargeError:
    """The error of a reader whose limit is reached."""
    return TooLargeError(f"{path} is larger than {limit} bytes, which is more than is read of it")
