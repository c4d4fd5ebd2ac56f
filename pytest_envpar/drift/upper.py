"""A container's changes read from its own layer, where that is a folder this process can read.

An overlay's upper directory holds exactly what differs, so that this costs the number of changes; the engine's own
answer walks the whole image. The format is the kernel's
(https://docs.kernel.org/filesystems/overlayfs.html#whiteouts-and-opaque-directories): a character device 0/0 hides a
lower entry, a directory with the xattr ``overlay.opaque`` hides all of them.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pytest_envpar.drift.changes import Change

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NAMESPACES = ("trusted.overlay.", "user.overlay.")


class UnreadableError(Exception):
    """The layer cannot be read this way; another route has to be taken."""


def scan(upper: Path, lower: Sequence[Path]) -> tuple[Change, ...]:
    """What ``upper`` changes on top of ``lower``.

    Args:
        upper: The container's own layer (host).
        lower: The layers below, the topmost first (host).

    Raises:
        UnreadableError: Something cannot be read, or needs a feature (``redirect_dir``) that this does not follow.
    """
    try:
        return tuple(_walk(upper, tuple(lower), PurePosixPath("/"), opaque=False))
    except OSError as error:
        raise UnreadableError(str(error)) from error


def _walk(upper: Path, lower: tuple[Path, ...], at: PurePosixPath, *, opaque: bool) -> Iterator[Change]:
    """What one folder changes.

    Args:
        opaque: Whether it, or one above it, was replaced: what the lower ones have there is gone, or was made again.
    """
    if opaque:
        yield from _hidden(upper, lower, at)
    with os.scandir(upper) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = at / entry.name
            status = entry.stat(follow_symlinks=False)
            below, beneath = _lookup(lower, entry.name)
            if _is_whiteout(status):
                if below:
                    yield Change(path, "removed")
            elif not stat.S_ISDIR(status.st_mode):
                yield Change(path, "modified" if below else "added")
            else:
                if _attribute(entry.path, "redirect"):
                    raise UnreadableError(f"{path} is a renamed folder of a layer below")
                yield Change(path, "modified" if below else "added")
                replaced = opaque or _attribute(entry.path, "opaque") == b"y"
                yield from _walk(Path(entry.path), beneath, path, opaque=replaced)


def _hidden(upper: Path, lower: tuple[Path, ...], at: PurePosixPath) -> Iterator[Change]:
    """Entries that a replaced directory no longer has."""
    names = {name for folder in lower for name in (entry.name for entry in folder.iterdir())}
    for name in sorted(names - {entry.name for entry in upper.iterdir()}):
        if _lookup(lower, name)[0]:
            yield Change(at / name, "removed")


def _lookup(lower: tuple[Path, ...], name: str) -> tuple[bool, tuple[Path, ...]]:
    """Whether the layers below show ``name``, and the directories of that name that are merged there."""
    merged: list[Path] = []
    for folder in lower:
        path = folder / name
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if _is_whiteout(status):
            break
        if not stat.S_ISDIR(status.st_mode):
            # A file hides whatever is below it, unless a directory above it has been found already.
            return True, tuple(merged)
        merged.append(path)
        if _attribute(path, "opaque") == b"y":
            break
    return bool(merged), tuple(merged)


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _attribute(path: str | Path, name: str) -> bytes | None:
    for namespace in _NAMESPACES:
        try:
            return os.getxattr(path, namespace + name, follow_symlinks=False)
        except OSError:
            continue
    return None
