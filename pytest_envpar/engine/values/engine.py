"""What an engine says of itself, and how it lists what it has."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class EngineInfo:
    """What an engine says of itself.

    Args:
        kind: ``docker`` or ``podman``.
        url: The URL it was reached at, without credentials.
        local: Whether host paths mean the same thing to the engine as to us (unix socket of this machine and
            not an engine inside a virtual machine).
        rootless: Whether the engine runs without root.
        native_overlay: Whether the ``local`` volume driver can mount an overlay (Docker with overlay2).
    """

    kind: Literal["docker", "podman"]
    version: str
    api_version: str
    url: str
    local: bool
    rootless: bool
    native_overlay: bool
    cgroup_version: int
    os: str
    architecture: str
    id: str


@dataclasses.dataclass(frozen=True)
class Listed:
    """A labelled object in a listing: a container, image, volume or network."""

    id: str
    name: str
    labels: Mapping[str, str]
    status: str = ""
