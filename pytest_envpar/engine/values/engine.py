"""What an engine says of itself, and how it lists what it has."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


_IMAGE_MOUNTS = (1, 48)


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

    @property
    def image_mounts(self) -> bool:
        """Whether containers can have images mounted: Docker from API 1.48 on."""
        version = tuple(int(part) for part in self.api_version.split(".") if part.isdigit())
        return self.kind == "docker" and version >= _IMAGE_MOUNTS


@dataclasses.dataclass(frozen=True)
class Listed:
    """A labelled object in a listing: a container, image, volume or network."""

    id: str
    name: str
    labels: Mapping[str, str]
    status: str = ""
