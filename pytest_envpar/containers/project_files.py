"""Which files of a project a copy takes: the tracked and the unignored ones."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_envpar.images.tarstream import Entry, directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NOT_COPIED = frozenset({".git", ".hg", ".svn", "__pycache__", ".venv", "node_modules", ".tox", ".nox"})
_GIT_TIMEOUT_S = 60


def project_files(root: Path) -> list[str]:
    """The files and symbolic links to copy, relative to ``root``, sorted.

    What git tracks or does not ignore, submodules included; without git everything but well-known rebuildable
    folders.
    """
    listed = _git_files(root)
    return sorted(listed if listed is not None else _walk(root))


def _git_files(root: Path) -> Iterable[str] | None:
    # A surrounding git command (a hook) names its own repository by these variables.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false", "ls-files"]
    command += ["-z", "--cached", "--others", "--exclude-standard"]
    try:
        ended = subprocess.run(
            command, cwd=root, env=env, capture_output=True, timeout=_GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if ended.returncode != 0:
        return None
    found: set[str] = set()
    for raw in filter(None, ended.stdout.split(b"\0")):
        name = os.fsdecode(raw).rstrip("/")
        path = root / name
        if path.is_dir() and not path.is_symlink():
            # A submodule, or a repository inside this one: git names it and does not look inside.
            inner = _git_files(path) if (path / ".git").exists() else _walk(path)
            found.update(f"{name}/{file}" for file in inner or ())
        else:
            found.add(name)
    return found


def _walk(root: Path) -> Iterator[str]:
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in _NOT_COPIED]
        relative = os.path.relpath(folder, root)
        prefix = "" if relative == os.curdir else relative + "/"
        links = [name for name in names if (Path(folder) / name).is_symlink()]
        yield from (prefix + name for name in (*files, *links))


def project_entries(root: Path, uid: int, gid: int) -> Iterator[Entry]:
    """The archive members of a copy of ``root``, owned by the container's user; modes and times are kept.

    Sockets, pipes and devices have no content to copy, and what we may not read the user could not test here
    either; both are left out.
    """
    seen: set[str] = set()
    for name in project_files(root):
        path = root / name
        try:
            status = path.lstat()
        except OSError:
            continue  # tracked, and deleted in the work tree
        parents = name.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            parent = "/".join(parents[:depth])
            if parent not in seen:
                seen.add(parent)
                above = (root / parent).lstat()
                yield directory(parent, stat.S_IMODE(above.st_mode) | 0o700, uid, gid, int(above.st_mtime))
        mode, mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
        if stat.S_ISLNK(status.st_mode):
            yield Entry(name, "link", mode, uid, gid, mtime, target=str(path.readlink()))
        elif stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK):
            yield Entry(name, "file", mode, uid, gid, mtime, size=status.st_size, source=path)
