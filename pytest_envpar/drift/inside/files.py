"""Single files and folders, without ever being led elsewhere: no link is followed, and nothing but files is opened.

Part of the program that runs inside a container, and used on the host for the folders of image layers.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False  # as in `typing`, which takes as long to import as some hundred files to look at
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_KEPT_XATTRS = ("user.", "security.capability", "system.posix_acl_")
_NOT_KEPT = ("user.overlay.",)


def open_root(root: str) -> int:
    """The descriptor of the folder in which everything else lies."""
    return os.open(root, _OPEN_ROOT)


def open_below(name: str, flags: int, folder: int) -> int:
    """The descriptor of what a folder has under a name."""
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    # A very deep tree: one descriptor for each folder on the way.
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return os.open(name, flags, dir_fd=folder)


def folder_of(root: str, path: str) -> int | None:
    """The descriptor of the folder that a path is in, entered step by step; None if it is not there."""
    folder = open_root(root)
    for part in path.split("/")[1:-1]:
        try:
            below = open_below(part, OPEN_FOLDER, folder)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise
        finally:
            os.close(folder)
        folder = below
    return folder


def status(root: str, path: str) -> os.stat_result | None:
    """What is at a single path; no link on the way is followed."""
    folder = folder_of(root, path)
    if folder is None:
        return None
    try:
        return os.stat(path.rpartition("/")[2] or ".", dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    finally:
        os.close(folder)


def opened(root: str, path: str) -> tuple[int, os.stat_result] | None:
    """A regular file, open to be read, and its state; None if it is not there or is something else."""
    folder = folder_of(root, path)
    if folder is None:
        return None
    try:
        # Whatever it is has to be known before: a device acts when it is opened.
        found = os.stat(path.rpartition("/")[2], dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            return None
        descriptor = open_below(path.rpartition("/")[2], OPEN_FILE, folder)
    except FileNotFoundError:
        return None
    finally:
        os.close(folder)
    now = os.fstat(descriptor)
    if not stat.S_ISREG(now.st_mode):
        os.close(descriptor)
        return None
    return descriptor, now


def attribute_names(descriptor: int) -> Sequence[str]:
    """The extended attributes of an open file or folder."""
    try:
        return os.listxattr(descriptor)
    except OSError:
        return ()


def attributes(descriptor: int, names: Sequence[str]) -> list[tuple[str, bytes]]:
    """Those of ``names`` that are compared, with their values."""
    found = []
    for name in names:
        if is_compared(name):
            try:
                found.append((name, os.getxattr(descriptor, name)))
            except OSError:
                pass
    return found


def attributes_at(where: str, folder: int, name: str) -> Sequence[tuple[str, bytes]]:
    """The same of what cannot be opened: a link, a FIFO, a device.

    Args:
        where: Its whole path.
        folder: The folder that it is in, for a path that is too long.
    """
    if len(where) > 1000:
        where = "/proc/self/fd/%d/%s" % (folder, name)
    try:
        names = os.listxattr(where, follow_symlinks=False)
        return (
            [(each, os.getxattr(where, each, follow_symlinks=False)) for each in names if is_compared(each)]
            if names
            else ()
        )
    except OSError:
        return ()


def is_compared(name: str) -> bool:
    """Whether an extended attribute is part of a file, as far as it is compared."""
    # Labels of security modules belong to the container and not to its files; trusted ones are not seen inside.
    return name.startswith(_KEPT_XATTRS) and not name.startswith(_NOT_KEPT)


def packed(pairs: Iterable[tuple[str, bytes]]) -> str:
    """Extended attributes as the text in a record."""
    return " ".join(
        "%s=%s" % (name.encode("utf-8", "surrogateescape").hex(), value.hex())
        for name, value in sorted(pairs)
    )


def reason(error: OSError) -> str:
    """Why something could not be read, in words."""
    return "it cannot be read: %s" % (error.strerror or error)
