"""What the configuration says, as frozen values.

Host paths are :class:`pathlib.Path`, container paths :class:`pathlib.PurePosixPath`; sizes are bytes,
durations seconds. Nothing here reads a file or the environment.
"""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path, PurePosixPath

Source = Literal["overlay", "mount", "mount-rw", "copy"]
Pull = Literal["missing", "always", "never"]
Agent = Literal["auto", "inject", "image"]

_EMPTY: Mapping[str, str] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Build:
    """How to build a stage's image; ``context`` and ``dockerfile`` are absolute host paths."""

    context: Path
    dockerfile: Path
    target: str | None = None
    args: Mapping[str, str] = dataclasses.field(default_factory=lambda: _EMPTY)


@dataclasses.dataclass(frozen=True)
class Ready:
    """When a service counts as ready; exactly one of the probes is set. ``timeout_s`` in seconds."""

    tcp: int | None = None
    log: str | None = None
    http: str | None = None
    port: int | None = None
    status: int | None = None
    command: tuple[str, ...] = ()
    healthcheck: bool = False
    timeout_s: float = 60.0


@dataclasses.dataclass(frozen=True)
class Service:
    """A container that runs beside the stage's own."""

    name: str
    image: str
    env: Mapping[str, str] = dataclasses.field(default_factory=lambda: _EMPTY)
    command: tuple[str, ...] = ()
    ready: Ready | None = None


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage: which image, and how its containers are run. ``extends`` is already applied."""

    name: str
    image: str | None = None
    build: Build | None = None
    setup: tuple[str, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=lambda: _EMPTY)
    pass_env: tuple[str, ...] = ()
    python: str | None = None
    user: str | None = None
    workdir: PurePosixPath | None = None
    network: str | None = None
    read_only: bool = False
    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None
    shm_size_bytes: int | None = None
    tmpfs: tuple[str, ...] = ()
    ulimits: Mapping[str, int] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    cap_drop: tuple[str, ...] = ()
    runtime: str | None = None
    platform: str | None = None
    pull: Pull = "missing"
    volumes: tuple[str, ...] = ()
    services: Mapping[str, Service] = dataclasses.field(default_factory=lambda: MappingProxyType({}))


@dataclasses.dataclass(frozen=True)
class Ignore:
    """Drift at ``path`` (a glob) is not shown, for ``reason``."""

    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Allow:
    """Drift of ``package`` is accepted until the end of the day ``until`` (ISO date)."""

    package: str
    reason: str
    until: str | None = None


@dataclasses.dataclass(frozen=True)
class DriftPolicy:
    """The ``[tool.envpar.drift]`` table."""

    compare: tuple[tuple[str, str], ...] = ()
    fail_on: str = "package"
    ignore: tuple[Ignore, ...] = ()
    allow: tuple[Allow, ...] = ()
    no_presets: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole configuration.

    Args:
        root: The project root: the folder of the configuration file (host, absolute).
        file: The configuration file (host, absolute).
        engines: What ``engine`` says, one or more.
        source: How the project reaches the container; ``None`` lets the engine's place decide.
        coverage: Whether what runs in a stage is measured by coverage.py.
    """

    root: Path
    file: Path
    stages: Mapping[str, Stage]
    engines: tuple[str, ...] = ("auto",)
    lockfile: Path | None = None
    source: Source | None = None
    artifacts: tuple[str, ...] = ()
    agent: Agent = "auto"
    coverage: bool = False
    drift: DriftPolicy = DriftPolicy()
