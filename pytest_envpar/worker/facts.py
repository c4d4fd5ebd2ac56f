"""What has to be known of an image before the project can be mounted, without running anything in it.

The probe of the agent asks a Python inside. Containers of fixtures need none, so that here only the engine is asked, by
a container that is never started, once per image, project and user.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from pytest_envpar.containers.source import PathFacts
from pytest_envpar.engine.values.create import ContainerSpec
from pytest_envpar.errors import NotFoundError
from pytest_envpar.worker import cache

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_envpar.config.model import Stage
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.images.pinned import PinnedImage

_FORMAT = 1
_PASSWD = PurePosixPath("/etc/passwd")
_GROUP = PurePosixPath("/etc/group")
_SEARCH = 0o001


def facts_of(
    engine: Engine, image: PinnedImage, stage: Stage, root: Path, cache_dir: Path, labels: Mapping[str, str]
) -> PathFacts:
    """What the image has at the project's own path, and who its user is.

    Args:
        root: The project root (host, absolute).
        cache_dir: Where answers are kept (host).
        labels: Of the container that is made to look.

    Raises:
        EngineError: The engine failed.
    """
    user = stage.user or image.info.user or "0"
    path = cache_dir / "facts" / f"{cache.digest(image.image_id, str(root), user)}.json"
    known = _parse(cache.load(path, _FORMAT))
    if known is not None:
        return known
    container = engine.create_container(
        ContainerSpec(image.image_id, ("look",), labels, platform=stage.platform)
    )
    try:
        uid, gid = ids_of(engine, container, user)
        found = PathFacts(
            _state(engine, container, PurePosixPath(str(root))),
            uid == 0 or _reachable(engine, container, PurePosixPath(str(root))),
            uid,
            gid,
        )
    finally:
        engine.remove_container(container)
    told = {"state": found.state, "reachable": found.reachable, "uid": found.uid, "gid": found.gid}
    cache.store(path, _FORMAT, told)
    return found


def ids_of(engine: Engine, container: str, user: str) -> tuple[int, int]:
    """uid and gid of ``user[:group]``, names looked up in the image; 0 for one that it does not know."""
    name, _, group = user.partition(":")
    uid, gid = 0, 0
    rows = [] if name.isdigit() and (group or name == "0") else _table(engine, container, _PASSWD)
    for row in rows:
        if len(row) > 3 and name in (row[0], row[2]) and row[2].isdigit() and row[3].isdigit():
            uid, gid = int(row[2]), int(row[3])
            break
    if name.isdigit():
        uid = int(name)
    if group.isdigit():
        return uid, int(group)
    for row in _table(engine, container, _GROUP) if group else []:
        if len(row) > 2 and row[0] == group and row[2].isdigit():
            return uid, int(row[2])
    return uid, gid


def _table(engine: Engine, container: str, path: PurePosixPath) -> list[list[str]]:
    try:
        raw = b"".join(engine.get_archive(container, path))
    except NotFoundError:
        return []
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        member = archive.next()
        file = archive.extractfile(member) if member is not None and member.isreg() else None
        text = "" if file is None else file.read().decode("utf-8", "replace")
    return [line.split(":") for line in text.splitlines()]


def _state(engine: Engine, container: str, path: PurePosixPath) -> Literal["absent", "empty", "occupied"]:
    found = engine.stat_path(container, path)
    if found is None:
        return "absent"
    if not found.is_directory:
        return "occupied"
    # The header of its first entry says that there is one; the rest need not be sent.
    head = b""
    chunks = iter(engine.get_archive(container, path))
    for chunk in chunks:
        head += chunk
        if len(head) >= 2 * tarfile.BLOCKSIZE:
            break
    close = getattr(chunks, "close", None)
    if close is not None:
        close()
    return "occupied" if head[tarfile.BLOCKSIZE : 2 * tarfile.BLOCKSIZE].strip(b"\0") else "empty"


def _reachable(engine: Engine, container: str, path: PurePosixPath) -> bool:
    """Whether anybody may pass through the directories that the image has above ``path``."""
    for folder in reversed(path.parents):
        found = engine.stat_path(container, folder)
        if found is None:
            return True
        if found.is_directory and not found.mode & _SEARCH:
            return False
    return True


def _parse(data: Mapping[str, object] | None) -> PathFacts | None:
    if data is None:
        return None
    state, uid, gid = data.get("state"), data.get("uid"), data.get("gid")
    if state not in ("absent", "empty", "occupied") or not isinstance(uid, int) or not isinstance(gid, int):
        return None
    return PathFacts(state, data.get("reachable") is True, uid, gid)
