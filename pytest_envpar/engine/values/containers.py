"""Containers as an engine knows them."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.engine.values.images import RunConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

_NONE: Mapping[str, str] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class ContainerInfo:
    """A container's state. ``exit_code`` is ``None`` until it has ended.

    ``oom_killed`` is the engine's word for the main process only; Podman on cgroup v1 never says it. ``ports`` maps
    ``5432/tcp`` to the addresses of the engine's host that it is published at; ``health`` is ``starting``, ``healthy``,
    ``unhealthy``, or empty without a health check. ``mounts`` are container paths at which something else than the
    image's files is seen, each with what it is (``volume``, ``bind``, ``tmpfs``). ``cap_drop`` are capabilities that
    its processes do not have, as they were named. ``own_processes`` is False if it sees those of another container or
    of the host. ``created_at`` is when it was made and ``finished_at`` when it ended, in seconds since 1970 by the
    engine's clock.
    """

    id: str
    name: str
    image_id: str
    running: bool
    status: str
    exit_code: int | None
    oom_killed: bool
    error: str
    labels: Mapping[str, str]
    ip_addresses: Mapping[str, str]
    ports: Mapping[str, tuple[tuple[str, int], ...]] = dataclasses.field(
        default_factory=lambda: MappingProxyType({})
    )
    health: str = ""
    config: RunConfig = dataclasses.field(default_factory=RunConfig)
    mounts: Mapping[str, str] = dataclasses.field(default_factory=lambda: _NONE)
    cap_drop: tuple[str, ...] = ()
    own_processes: bool = True
    created_at: float = 0.0
    finished_at: float = 0.0


@dataclasses.dataclass(frozen=True)
class Stats:
    """What a container uses at this moment; 0 where the engine does not tell.

    Args:
        cpu_s: Processor time since its start, in seconds.
        memory_bytes: In use, without the page cache.
        memory_limit_bytes: The limit, which is the machine's memory where there is none.
        pids: Processes and threads.
        received_bytes: Over all of its networks.
        sent_bytes: Over all of its networks.
    """

    cpu_s: float
    memory_bytes: int
    memory_limit_bytes: int
    pids: int
    received_bytes: int
    sent_bytes: int


@dataclasses.dataclass(frozen=True)
class LogLine:
    """A line that a container's main process wrote.

    Args:
        time: When at the earliest, in seconds since 1970 by the engine's clock, which is that of its containers; 0 if
            not told.
        text: Without the end of the line.
        latest: When at the latest: some engines tell whole seconds only.
    """

    time: float
    text: bytes
    latest: float
