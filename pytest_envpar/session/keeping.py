"""Containers that stay after their run because the user asked for it: ``--env-keep``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_envpar.errors import EnvparError

if TYPE_CHECKING:
    from pytest_envpar.containers.handle import Container
    from pytest_envpar.worker.supply import Supply


class Kept:
    """Decides what stays, and tells how to enter and to remove it.

    Args:
        when: ``never``, ``failed`` or ``always``.
    """

    def __init__(self, when: str) -> None:
        self._when = when
        self._lines: list[str] = []

    def wants(self, *, failed: bool) -> bool:
        """Whether a container stays whose tests failed or not."""
        return self._when == "always" or (self._when == "failed" and failed)

    def note(self, container: Container, supply: Supply) -> None:
        """Let it stay."""
        try:
            supply.release(container)
        except EnvparError as error:
            self._lines.append(f"{container.name} could not be kept: {error.message}")
            return
        kind, name = container.recipe.engine.info.kind, container.running.name
        self._lines += [
            f"kept {name} ({container.stage or container.image.short()})",
            f"  enter:  {kind} exec -it {name} sh",
            f"  remove: {kind} rm --force --volumes {name}",
        ]

    def lines(self) -> list[str]:
        """What to tell at the end of the run."""
        return [*self._lines, "  remove all that was kept: envpar prune"] if self._lines else []
