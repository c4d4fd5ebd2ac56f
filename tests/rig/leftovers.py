"""The proof, at the end of all tests, that nothing of ours stays on the engines of this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.containers.sweep import list_ours
from pytest_envpar.engine.select import Candidate, connect
from pytest_envpar.errors import EngineError

from .engines import DOCKER, podman_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_envpar.containers.sweep import OurObject

ENGINES = (Candidate("docker socket", DOCKER), Candidate("podman system service", ""))


@dataclasses.dataclass(eq=False)  # pytest keeps plugins in a set
class Leftovers:
    """Looks at the engines before the first test and after the last, caches and what a process still uses apart.

    Only where ``CI`` is set: elsewhere others may leave something meanwhile.

    Args:
        folder: For settings of Podman.
    """

    folder: Path
    before: dict[str, OurObject] = dataclasses.field(default_factory=dict)
    left: list[str] = dataclasses.field(default_factory=list)

    def pytest_sessionstart(self) -> None:
        """Note what others have left."""
        self.before = self._found()

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Whatever is there now and was not is a failure."""
        new = {key: each for key, each in self._found().items() if key not in self.before}
        self.left = [f"{key}: {each.kind} of {each.project}, {each.state}" for key, each in new.items()]
        if self.left and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name it."""
        if self.left:
            terminalreporter.section("left on the engines", red=True)
            for line in self.left:
                terminalreporter.write_line(line)

    def _found(self) -> dict[str, OurObject]:
        environ: Mapping[str, str] = {**os.environ, **podman_settings(self.folder)}
        found: dict[str, OurObject] = {}
        for candidate in ENGINES:
            with contextlib.suppress(EngineError), contextlib.closing(connect(candidate, environ)) as engine:
                for each in list_ours(engine):
                    lives = each.state == "live" and each.owner is not None
                    if each.state != "cache" and not lives:
                        found[f"{each.type} {each.name or each.id} on {engine.info.kind}"] = each
        return found
