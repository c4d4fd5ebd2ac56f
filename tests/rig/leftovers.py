"""The proof, at the end of all tests, that nothing of ours stays on the engines of this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.containers.sweep import list_ours, sweep
from pytest_envpar.engine.select import connect
from pytest_envpar.errors import EngineError

from .engines import HERE, podman_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_envpar.containers.sweep import OurObject
    from pytest_envpar.engine.select import Candidate

ENGINES = tuple(HERE.values())


@dataclasses.dataclass(eq=False)  # pytest keeps plugins in a set
class Leftovers:
    """Looks at the engines before the first test and after the last, caches and what a process still uses apart.

    Only where ``CI`` is set: elsewhere others may leave something meanwhile.

    Args:
        folder: For settings of Podman.
    """

    folder: Path
    before: dict[Candidate, dict[str, OurObject]] = dataclasses.field(default_factory=dict)
    left: list[str] = dataclasses.field(default_factory=list)

    def pytest_sessionstart(self) -> None:
        """Note what others have left, on the engines that answer."""
        for candidate in ENGINES:
            with contextlib.suppress(EngineError):
                self.before[candidate] = self._found(candidate)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Whatever is there now, was not and cannot be swept is a failure; so is an engine that does not answer any
        more.

        What killed hosts leave is swept by later runs, but nobody waits until that has been done.
        """
        for candidate, before in self.before.items():
            try:
                found = self._found(candidate, swept=True)
            except EngineError as error:
                self.left.append(f"{candidate.title} does not answer any more: {error}")
            else:
                self.left += [
                    f"{key}: {each.kind} of {each.project}, {each.state}"
                    for key, each in found.items()
                    if key not in before
                ]
        if self.left and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name it."""
        if self.left:
            terminalreporter.section("left on the engines", red=True)
            for line in self.left:
                terminalreporter.write_line(line)

    def _found(self, candidate: Candidate, *, swept: bool = False) -> dict[str, OurObject]:
        environ: Mapping[str, str] = {**os.environ, **podman_settings(self.folder)}
        with contextlib.closing(connect(candidate, environ)) as engine:
            if swept:
                sweep(engine)
            return {
                f"{each.type} {each.name or each.id} on {engine.info.kind}": each
                for each in list_ours(engine)
                if each.state != "cache" and (each.state != "live" or each.owner is None)
            }
