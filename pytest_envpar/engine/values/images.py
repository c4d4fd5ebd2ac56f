"""Images as an engine knows them."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NONE: Mapping[str, str] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How the processes of an image or of a container are started.

    Args:
        ports: Exposed ports, ``80/tcp``, sorted.
        healthcheck: Its keys with values as text, empty without one; times in nanoseconds as the engine has them.
        stop_signal: As it was written; empty for the default.
        shell: Of the shell form of a Dockerfile's instructions; empty for the default.
        on_build: Dockerfile instructions for builds that start from the image. Docker has them, OCI images do not.
    """

    env: Mapping[str, str] = dataclasses.field(default_factory=lambda: _NONE)
    user: str = ""
    workdir: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = dataclasses.field(default_factory=lambda: _NONE)
    ports: tuple[str, ...] = ()
    healthcheck: Mapping[str, str] = dataclasses.field(default_factory=lambda: _NONE)
    stop_signal: str = ""
    shell: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ImageInfo:
    """An image as the engine knows it.

    ``layers`` are diff IDs, bottom first; ``digests`` are ``name@sha256:…``; ``created`` is RFC 3339, as the engine
    writes it; ``ports`` are the exposed ones (``5432/tcp``); ``health_check`` is the ``Test`` of the image's health
    check (``CMD`` and arguments, or ``CMD-SHELL`` and a command line), empty without one.
    """

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    layers: tuple[str, ...]
    os: str
    architecture: str
    variant: str
    env: Mapping[str, str]
    user: str
    workdir: str
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    volumes: tuple[str, ...]
    labels: Mapping[str, str]
    created: str = ""
    size_bytes: int | None = None
    ports: tuple[str, ...] = ()
    health_check: tuple[str, ...] = ()
    config: RunConfig = dataclasses.field(default_factory=RunConfig)
