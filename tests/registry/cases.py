"""Repositories of a test's own on a registry."""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_envpar.config.model import Stage
from pytest_envpar.images.resolve import resolve

if TYPE_CHECKING:
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.images.pinned import PinnedImage

    from .images import Pushed, Pusher
    from .servers import Registry


@dataclasses.dataclass
class Case:
    """A repository of its own on the registry that anybody may use, and whose images go afterwards."""

    engine: Engine
    registry: Registry
    name: str
    host: str
    made: list[str]

    @property
    def pusher(self) -> Pusher:
        return self.registry.pusher

    def push(self, *layers: bytes, tag: str = "1", platform: str = "linux/amd64") -> Pushed:
        """Push an image of these layers, by default of one that nobody else has."""
        return self.pusher.image(self.name, tag, *(layers or (secrets.token_bytes(64),)), platform=platform)

    def push_as(self, authorization: str) -> Pushed:
        """The same with a header of one's own."""
        pusher = dataclasses.replace(self.pusher, authorization=authorization)
        return pusher.image(self.name, "1", secrets.token_bytes(64))

    def reference(self, tag: str = "1", *, digest: str | None = None) -> str:
        """The reference of what was pushed."""
        return self.noted(f"{self.host}/{self.name}" + (f"@{digest}" if digest else f":{tag}"))

    def noted(self, reference: str) -> str:
        """``reference``, which is removed from the engine afterwards."""
        self.made.append(reference)
        return reference

    def stage(self, reference: str | None = None, **keys: Any) -> Stage:
        """A stage with this image."""
        return Stage("qa", image=reference or self.reference(), **keys)

    def resolve(self, stage: Stage | None = None, **named: Any) -> PinnedImage:
        """Resolve a stage; what it is pinned to is removed afterwards."""
        if named.get("digest"):
            # Pulled before it may be found to be of another platform.
            self.reference(digest=named["digest"])
        pinned = resolve(self.engine, stage or self.stage(), Path("/nowhere"), **named)
        self.made.append(pinned.image_id)
        return pinned
