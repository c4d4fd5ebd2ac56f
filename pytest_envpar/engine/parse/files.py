"""Files of a container, and where an engine on this machine keeps them."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from pytest_envpar.engine.parse.shapes import rows, table
from pytest_envpar.engine.values.files import LayerFolders, PathChange, PathStat

if TYPE_CHECKING:
    from collections.abc import Mapping

_CHANGE_KINDS: Mapping[int, Literal["added", "removed", "modified"]] = {
    0: "modified",
    1: "added",
    2: "removed",
}
_GO_TYPES = (
    (1 << 31, stat.S_IFDIR),
    (1 << 27, stat.S_IFLNK),
    (1 << 21, stat.S_IFCHR),
    (1 << 26, stat.S_IFBLK),
    (1 << 25, stat.S_IFIFO),
    (1 << 24, stat.S_IFSOCK),
)
_GO_FLAGS = ((1 << 23, stat.S_ISUID), (1 << 22, stat.S_ISGID), (1 << 20, stat.S_ISVTX))


def path_stat(header: str) -> PathStat | None:
    """The header ``X-Docker-Container-Path-Stat`` of the archive calls: JSON in base64.

    Its mode is that of Go's ``os.FileMode``, whose type and set-id bits have places of their own.
    """
    try:
        data = table(json.loads(base64.b64decode(header)))
    except ValueError:
        return None
    told = int(data.get("mode") or 0)
    mode = told & 0o777
    mode |= next((ours for bit, ours in _GO_TYPES if told & bit), stat.S_IFREG)
    mode |= sum(ours for bit, ours in _GO_FLAGS if told & bit)
    return PathStat(mode, int(data.get("size") or 0), str(data.get("linkTarget") or ""))


def path_changes(answer: Any) -> tuple[PathChange, ...]:
    """``GET /containers/{id}/changes``, which is ``null`` without any."""
    found = [
        PathChange(
            PurePosixPath(str(table(item).get("Path"))),
            _CHANGE_KINDS.get(table(item).get("Kind", 0), "modified"),
        )
        for item in rows(answer)
    ]
    return tuple(sorted(found, key=lambda change: str(change.path)))


def layer_folders(answer: Any) -> LayerFolders | None:
    """``GraphDriver`` of ``GET /containers/{id}/json``: those folders of an overlay
    that this process may enter."""
    data = table(table(table(answer).get("GraphDriver")).get("Data"))
    upper, lower = data.get("UpperDir"), data.get("LowerDir")
    if not isinstance(upper, str) or not isinstance(lower, str):
        return None
    folders = LayerFolders(Path(upper), tuple(Path(folder) for folder in lower.split(":") if folder))
    if not all(os.access(folder, os.R_OK | os.X_OK) for folder in (folders.upper, *folders.lower)):
        return None
    return folders


def image_folders(answer: Any) -> tuple[Path, ...] | None:
    """``GraphDriver`` of ``GET /images/{name}/json``: the layers of an overlay that this process may enter, the lowest
    first. Only if there is one for each diff ID does it say which is which."""
    data = table(answer)
    driver = table(table(data.get("GraphDriver")).get("Data"))
    upper, lower = driver.get("UpperDir"), driver.get("LowerDir")
    if not isinstance(upper, str):
        return None
    below = [folder for folder in lower.split(":") if folder] if isinstance(lower, str) else []
    folders = tuple(Path(folder) for folder in reversed([upper, *below]))
    if len(folders) != len(rows(table(data.get("RootFS")).get("Layers"))):
        return None
    return folders if all(os.access(folder, os.R_OK | os.X_OK) for folder in folders) else None
