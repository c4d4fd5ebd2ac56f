"""What container to create."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import PurePosixPath

_NONE: Mapping[str, str] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Mount:
    """A mount of a container.

    Args:
        kind: ``bind`` (``source`` is an engine-host path), ``volume`` (``source`` is a volume's name, or
            ``None`` for an anonymous one removed with the container), ``image`` (``source`` is an image, of an engine
            with ``image_mounts``) or ``overlay`` (Podman's own: ``source`` is a host path, changes are discarded with
            the container).
        target: Container path.
        no_copy: Do not fill a new volume with what the image has at ``target``.
    """

    kind: Literal["bind", "volume", "image", "overlay"]
    source: str | None
    target: PurePosixPath
    read_only: bool = False
    no_copy: bool = True


@dataclasses.dataclass(frozen=True)
class ContainerSpec:
    """What to create. Sizes in bytes; ``tmpfs`` maps container paths to mount options.

    ``aliases`` are more names of the container in its ``network``. ``log`` is how the engine keeps what it writes:
    where :meth:`Engine.follow_logs` finds it (``readable``), not at all (``none``, as it is read when it comes), or as
    the engine chooses (``None``). ``no_new_privileges`` keeps set-user-id programs inside from gaining rights.
    ``ports`` (``5432/tcp``) are published on ports of the loopback address that the engine chooses. ``processes_of`` is
    a container whose processes it sees as its own, and which it does not outlive.
    """

    image: str
    command: tuple[str, ...]
    labels: Mapping[str, str]
    name: str | None = None
    entrypoint: tuple[str, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=lambda: _NONE)
    user: str | None = None
    workdir: PurePosixPath | None = None
    hostname: str | None = None
    network: str | None = None
    aliases: tuple[str, ...] = ()
    log: Literal["readable", "none"] | None = None
    mounts: tuple[Mount, ...] = ()
    tmpfs: Mapping[str, str] = dataclasses.field(default_factory=lambda: _NONE)
    read_only: bool = False
    memory_bytes: int | None = None
    nano_cpus: int | None = None
    pids: int | None = None
    shm_size_bytes: int | None = None
    ulimits: Mapping[str, int] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    runtime: str | None = None
    platform: str | None = None
    stdin: bool = False
    init: bool = False
    no_new_privileges: bool = True
    ports: tuple[str, ...] = ()
    processes_of: str = ""
