"""Containers that stay after their run because the user asked for it: ``--env-keep``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_envpar.containers import kept
from pytest_envpar.errors import EnvparError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_envpar.containers.handle import Container
    from pytest_envpar.containers.services import Services
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.worker.start import Site
    from pytest_envpar.worker.supply import Supply

MOST = 10
"""How many containers one stage of a run leaves: with a fresh one per test all of them may have failed."""
_PRUNE = "  remove all that was kept of this project: envpar prune --project"


class Kept:
    """Decides which containers of fixtures stay, and tells how to enter and to remove them.

    Args:
        when: ``never``, ``failed`` or ``always``.
        environ: The user's environment.
    """

    def __init__(self, when: str, environ: Mapping[str, str]) -> None:
        self._when = when
        self._environ = environ
        self._lines: list[str] = []

    def wants(self, *, failed: bool) -> bool:
        """Whether a container stays whose tests failed or not."""
        return self._when == "always" or (self._when == "failed" and failed)

    def note(self, container: Container, supply: Supply) -> None:
        """Let it stay."""
        try:
            supply.release(container)
            commands = kept.lines(container.running, self._environ)
        except EnvparError as error:
            self._lines.append(f"{container.name} could not be kept: {error.message}")
            return
        name = container.running.name
        self._lines += [f"kept {name} ({container.stage or container.image.short()})"]
        self._lines += [f"  {line}" for line in commands]

    def lines(self) -> list[str]:
        """What to tell at the end of the run."""
        return [*self._lines, _PRUNE] if self._lines else []


class StageKeeping:
    """Decides which of a stage's own containers stay. It changes with each failure and each container.

    Args:
        when: ``never``, ``failed`` or ``always``.
        environ: The user's environment.
        folder: Where the run was started (host path), and with it the suite in each container.
    """

    def __init__(self, when: str, environ: Mapping[str, str], folder: Path) -> None:
        self._when = when
        self._environ = environ
        self._folder = folder
        self._blame: str | None = None
        self._lines: list[str] = []
        self._count = self._left_out = 0

    def blame(self, what: str) -> None:
        """Something went wrong in the current container; the first is told."""
        self._blame = self._blame or what

    def wants(self) -> bool:
        """Whether the current container should stay."""
        return self._when == "always" or (self._when == "failed" and self._blame is not None)

    def take(self, site: Site) -> bool:
        """Let the current container stay, if it is one that should; whatever comes next has a clean record."""
        wanted, blame, self._blame = self.wants(), self._blame, None
        if not wanted:
            return False
        if self._count >= MOST:
            self._left_out += 1
            return False
        name = site.container.name
        try:
            site.keep()
            python = site.ground.probe.python
            workdir = site.paths.to_container(self._folder)
            commands = kept.lines(site.container, self._environ, workdir=workdir, python=python)
        except EnvparError as error:
            self._lines.append(f"{name} could not be kept: {error.message}")
            return False
        self._count += 1
        self._lines.append(f"kept {site.container.name}" + (f": {blame}" if blame else ""))
        self._lines += [f"  {line}" for line in commands]
        return True

    def take_services(self, services: Services, engine: Engine) -> bool:
        """Let the services of the kept containers stay with them."""
        if not self._count:
            return False
        try:
            names = services.keep()
        except EnvparError as error:
            self._lines.append(f"the services could not be kept: {error.message}")
            return False
        removal = kept.removal(engine, self._environ, names, networks=(services.network,))
        self._lines += [
            f"kept the services as well: {', '.join(names)}",
            f"  remove, after what was kept above: {removal}",
        ]
        return True

    def lines(self) -> list[str]:
        """What to tell at the end of the run."""
        told = list(self._lines)
        if self._left_out:
            told.append(f"{self._left_out} more were not kept: no more than {MOST} are")
        return [*told, _PRUNE] if told else []
