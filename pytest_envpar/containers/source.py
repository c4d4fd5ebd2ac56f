"""How the project reaches the container.

``overlay``   the project at its own path, writable inside, the host's tree untouched (copy-on-write)
``mount``     the host's tree, read-only
``mount-rw``  the host's tree, writable
``copy``      a copy of the tracked and unignored files, in a volume that goes with the container

On Docker an overlay is three volumes of the ``local`` driver: two plain ones whose mount points serve as
the upper and the work directory, and one of type ``overlay`` over them. So the engine makes and cleans all
of it, as root, and nothing is made on the host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import stat
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from pytest_envpar.engine.values.create import ContainerSpec, Mount
from pytest_envpar.errors import EngineError, StageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_envpar.config.model import Source
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.engine import EngineInfo

MAPPED_ROOT = PurePosixPath("/envpar")
"""Where a project goes that cannot have its own path.

Not below ``/.envpar``: tools that skip hidden directories would find no project there. Not below ``/srv`` or
``/src``: images put their own things there.
"""

WRITTEN = PurePosixPath("/.envpar/written")
"""Where a watched container shows what is written over its project."""

_ENGINE_PATHS = tuple(map(PurePosixPath, ("/dev", "/proc", "/sys", "/.envpar")))
# Words that Docker's local driver takes out of a volume's options before the kernel sees them.
_MOUNT_WORDS = frozenset(
    """
    acl async atime bind defaults dev diratime dirsync exec iversion loud mand noacl noatime nodev nodiratime
    noexec noiversion nomand norelatime nostrictatime nosuid private rbind relatime remount ro rprivate
    rshared rslave runbindable rw shared silent slave strictatime suid sync unbindable
    """.split()  # noqa: SIM905
)
_MAX_MOUNT_OPTIONS = 3500  # the kernel takes one page; the two engine paths need some of it


@dataclasses.dataclass(frozen=True)
class PathFacts:
    """What the image has at the project's own path, seen as the container's user.

    Args:
        state: ``absent``, ``empty`` (an empty directory) or ``occupied`` (anything else).
        reachable: Whether the user can get there through the directories that the image has above it.
        uid: The user's number.
        gid: The number of the user's first group.
    """

    state: Literal["absent", "empty", "occupied"] = "absent"
    reachable: bool = True
    uid: int = 0
    gid: int = 0


@dataclasses.dataclass(frozen=True)
class SourcePlan:
    """How the project reaches the containers of one stage.

    Args:
        mode: The mode in use.
        why: One sentence for the header if mode or path are not the ones expected; else ``None``.
        host_root: The project root on the host.
        container_root: The project root inside.
        native_overlay: Whether an overlay is made of volumes (Docker); else by the engine itself (Podman).
        owner: uid, gid and mode of the project root inside; ``None`` leaves them to the engine.
        uid: Owner of copied files.
        gid: Group of copied files.
    """

    mode: Source
    why: str | None
    host_root: Path
    container_root: PurePosixPath
    native_overlay: bool = False
    owner: tuple[int, int, int] | None = None
    uid: int = 0
    gid: int = 0

    @property
    def mapped(self) -> bool:
        """Whether paths inside differ from those on the host."""
        return str(self.container_root) != str(self.host_root)


def plan_source(
    info: EngineInfo,
    facts: PathFacts,
    source: Source | None,
    root: Path,
    *,
    workdir: PurePosixPath | None = None,
) -> SourcePlan:
    """Decide how the project reaches the container.

    Args:
        source: What the user asked for; ``None`` takes the best that works.
        root: The project root (host, absolute).
        workdir: The stage's ``workdir``; if set, the project goes there, also over what the image has there.

    Raises:
        UsageError: The mode asked for cannot be had on this engine.
    """
    why: list[str] = []
    mode = _mode(info, facts, source, root, why)
    container_root = _container_root(info, facts, root, workdir, why)
    status = root.stat()
    owner = None
    if mode == "overlay" and facts.uid != 0:
        owner = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
    return SourcePlan(
        mode=mode,
        why="; ".join(why) or None,
        host_root=root,
        container_root=container_root,
        native_overlay=info.native_overlay,
        owner=owner,
        uid=facts.uid,
        gid=facts.gid,
    )


def _mode(info: EngineInfo, facts: PathFacts, source: Source | None, root: Path, why: list[str]) -> Source:
    if source == "copy":
        return "copy"
    if not info.local:
        if source is not None:
            raise UsageError(
                f"source = {source!r} needs an engine on this machine, and {info.url} is a remote one",
                hint="use source = \"copy\", or leave 'source' out: it then depends on the engine",
            )
        why.append("source copied: the engine is not on this machine")
        return "copy"
    obstacle = _path_obstacle(info, source, root)
    if obstacle is not None:
        if source == "mount-rw":
            raise UsageError(f"source = 'mount-rw' cannot be had: {obstacle}", hint="move the project")
        why.append(f"source copied: {obstacle}")
        return "copy"
    if source in ("mount", "mount-rw"):
        return source
    if not (info.native_overlay or info.kind == "podman"):
        if source == "overlay":
            raise UsageError(
                f"source = 'overlay' cannot be had on {info.kind} {info.version}: it cannot mount an overlay",
                hint='use source = "copy" or "mount"',
            )
        why.append("source copied: the engine cannot mount an overlay")
        return "copy"
    owner = root.stat().st_uid
    if source is None and facts.uid != 0 and (info.rootless or facts.uid != owner):
        why.append(
            f"source copied: the container's user ({facts.uid}) is not the owner of the project ({owner})"
        )
        return "copy"
    return "overlay"


def _path_obstacle(info: EngineInfo, source: Source | None, root: Path) -> str | None:
    """Why the engine cannot be given this path, if so."""
    unmountable = _unmountable(info, root)
    if unmountable is not None or source in ("mount", "mount-rw") or not info.native_overlay:
        return unmountable
    if _MOUNT_WORDS.intersection(str(root).split(",")[1:]):
        return "a part of the project's path after a comma reads as a mount option"
    if len(_escape(str(root)).encode()) > _MAX_MOUNT_OPTIONS:
        return "the project's path is too long for an overlay"
    return None


def _unmountable(info: EngineInfo, root: Path) -> str | None:
    """Why the path can be neither source nor target of any mount, if so."""
    text = str(root)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "the project's path is not UTF-8, and an engine takes nothing else"
    if re.search(r"[\x00-\x1f\x7f]", text):
        return "the project's path has control characters"
    if info.kind == "podman" and (found := re.search(r'[:,\\"]', text)):
        return f"the project's path has a {found.group()!r}, which Podman does not take in a mount"
    return None


def _escape(path: str) -> str:
    """A path inside the options of an overlay: ``,`` ends an option and ``:`` ends a layer."""
    return re.sub(r"([\\:,])", r"\\\1", path)


def _container_root(
    info: EngineInfo, facts: PathFacts, root: Path, workdir: PurePosixPath | None, why: list[str]
) -> PurePosixPath:
    if workdir is not None:
        if workdir == PurePosixPath("/"):
            raise StageError(
                "workdir = '/' would cover the whole image with the project",
                hint="choose a folder of its own",
            )
        return workdir
    own = PurePosixPath(str(root))
    reason = None
    if own == PurePosixPath("/") or any(own == path or path in own.parents for path in _ENGINE_PATHS):
        reason = "its path belongs to the container itself"
    elif _unmountable(info, root) is not None:
        reason = "its path cannot be mounted to"
    elif not facts.reachable:  # before the next: who cannot look there sees it as occupied
        reason = f"the container's user ({facts.uid}) cannot reach its path"
    elif facts.state == "occupied":
        reason = "the image has files at its path"
    if reason is None:
        return own
    name = re.sub(r"[^\w.+ -]", "_", root.name.encode("utf-8", "replace").decode()) or "project"
    mapped = MAPPED_ROOT / name
    why.append(f"the project is at {mapped} inside: {reason}")
    return mapped


def open_source(
    engine: Engine, plan: SourcePlan, prefix: str, labels: Mapping[str, str], stack: contextlib.ExitStack
) -> tuple[Mount, ...]:
    """Make what the plan needs on the engine and return the mounts of one container.

    Args:
        prefix: Begins the names of the volumes; unique on the engine.
        stack: Gets the removal of each volume, before the container's own is added.
    """
    root = plan.container_root
    if plan.mode == "copy":
        # Podman 5 gives a volume's root to root again when its first container starts, unless it is made for a user
        # (podman-volume-create(1), o=uid).
        mine = plan.uid != 0 and engine.info.kind == "podman"
        options = {"o": f"uid={plan.uid},gid={plan.gid}"} if mine else {}
        engine_volume(engine, f"{prefix}-source", labels, stack, options)
        return (Mount("volume", f"{prefix}-source", root),)
    if plan.mode in ("mount", "mount-rw"):
        return (Mount("bind", str(plan.host_root), root, read_only=plan.mode == "mount"),)
    if not plan.native_overlay:
        return (Mount("overlay", str(plan.host_root), root),)
    places = [engine_volume(engine, f"{prefix}-{part}", labels, stack) for part in ("upper", "work")]
    options = {
        "type": "overlay",
        "device": "overlay",
        "o": f"lowerdir={_escape(str(plan.host_root))},upperdir={_escape(str(places[0]))},"
        f"workdir={_escape(str(places[1]))}",
    }
    engine_volume(engine, f"{prefix}-source", labels, stack, options)
    return (Mount("volume", f"{prefix}-source", root),)


def written_mount(plan: SourcePlan, prefix: str) -> tuple[Mount, ...]:
    """The mount that shows what is written over the project, where it is in a volume of its own."""
    if plan.mode != "overlay" or not plan.native_overlay:
        return ()
    return (Mount("volume", f"{prefix}-upper", WRITTEN, read_only=True),)


def engine_volume(
    engine: Engine,
    name: str,
    labels: Mapping[str, str],
    stack: contextlib.ExitStack,
    options: Mapping[str, str] | None = None,
) -> PurePosixPath:
    """Create a volume whose removal is on ``stack`` before it exists, so that no interrupt can leave it
    behind."""
    stack.callback(remove_volume, engine, name)
    return engine.create_volume(name, labels=labels, options=options or {})


def remove_volume(engine: Engine, name: str) -> None:
    """Remove a volume, if that can be done now."""
    # What cannot be removed now is swept by a later run: its labels say whose it was.
    with contextlib.suppress(EngineError):
        engine.remove_volume(name)


def fill_source(
    engine: Engine,
    plan: SourcePlan,
    container: str,
    mounts: tuple[Mount, ...],
    *,
    image: str,
    labels: Mapping[str, str],
    read_only: bool = False,
) -> None:
    """Put into a created container what mounts alone do not bring: a copy, or the project root's own owner.

    Args:
        mounts: What :func:`open_source` returned.
        image: The container's image.
        labels: Of a helper container that is made, and never started, where the root is read-only.
        read_only: Whether the container's root is read-only.
    """
    owner = plan.owner if plan.native_overlay else None
    if plan.mode == "copy":
        from pytest_envpar.containers.project_files import project_entries
        from pytest_envpar.images import tarstream

        entries = project_entries(plan.host_root, plan.uid, plan.gid)
        engine.put_archive(container, plan.container_root, tarstream.tar(entries))
        mode = stat.S_IMODE(plan.host_root.stat().st_mode) | 0o700
        owner = (plan.uid, plan.gid, mode) if plan.uid != 0 else None
    if owner is None:
        return
    # An engine skips the entry "./", so the root is named from its parent, and nothing can be put into the
    # parent if it is a part of a read-only root.
    if not read_only:
        _own(engine, container, plan.container_root, owner)
        return
    (volume,) = mounts
    place = MAPPED_ROOT / "source"
    mount = dataclasses.replace(volume, target=place)
    helper = engine.create_container(ContainerSpec(image, ("true",), labels, mounts=(mount,)))
    try:
        _own(engine, helper, place, owner)
    finally:
        engine.remove_container(helper)


def _own(engine: Engine, container: str, path: PurePosixPath, owner: tuple[int, int, int]) -> None:
    from pytest_envpar.images import tarstream

    uid, gid, mode = owner
    entry = tarstream.directory(f"{path.name}/", mode, uid, gid, int(time.time()))
    engine.put_archive(container, path.parent, tarstream.tar([entry]))
