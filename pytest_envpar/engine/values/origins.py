"""Where an image comes from: the steps that made it, and what a registry serves under its name."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class HistoryEntry:
    """One step of an image's history.

    Args:
        created_by: The step in its builder's own words.
        size_bytes: What it added. 0 may be a step without a layer, or one whose layer holds no file's content.
        image_id: The image that it ended with, if this engine built it; empty if not. Podman's may be that of another
            step.
        comment: What the builder or an import noted.
    """

    created_by: str
    size_bytes: int
    image_id: str = ""
    comment: str = ""


@dataclasses.dataclass(frozen=True)
class RemoteImage:
    """What a registry serves under a reference, without anything being pulled.

    Args:
        reference: As it was asked for.
        digest: ``sha256:…`` of the manifest; for an image of several platforms that of its index.
        platforms: ``os/arch[/variant]`` of each image in it; empty where the registry does not say.
    """

    reference: str
    digest: str
    platforms: tuple[str, ...]
