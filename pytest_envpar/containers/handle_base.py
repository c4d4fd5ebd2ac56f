"""What all parts of a container's handle know of it: which one it is, and how it was started."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_envpar.containers.lifecycle import RunningContainer
    from pytest_envpar.containers.recipe import Recipe
    from pytest_envpar.engine.values.containers import ContainerInfo
    from pytest_envpar.images.pinned import PinnedImage


class Base:
    """See :class:`~pytest_envpar.containers.handle.Container`."""

    def __init__(self, recipe: Recipe, running: RunningContainer) -> None:
        self.id = running.id
        self.name = running.name
        self.image: PinnedImage = recipe.image
        self.stage: str | None = recipe.named
        self.recipe = recipe
        self.running = running
        self._engine = recipe.engine
        self.most_held: int | None = None
        """How many bytes of a file or of a command's output are held in memory; ``None`` for any number."""
        self.most_copied: int | None = None
        """How many bytes ``copy_out`` and ``unpack`` copy."""

    def __repr__(self) -> str:
        return f"<Container {self.name} of {self.stage or self.image.short()}>"

    def inspect(self) -> ContainerInfo:
        """Its state now."""
        return self._engine.inspect_container(self.id)
