"""The look at the engines after all tests: what counts as left, and what an engine that does not answer means."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from rig import leftovers

from pytest_envpar.containers.sweep import OurObject, State
from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_envpar.engine.select import Candidate

DOCKER, PODMAN = leftovers.ENGINES


class Machine:
    """Engines with objects by their names; ``None`` is one that does not answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.engines: dict[Candidate, dict[str, State] | None] = {DOCKER: {}, PODMAN: {}}
        self.look = leftovers.Leftovers(folder)
        monkeypatch.setattr(leftovers, "connect", self._connect)
        monkeypatch.setattr(leftovers, "list_ours", self._listed)
        monkeypatch.setattr(leftovers, "sweep", self._sweep)

    def _connect(self, candidate: Candidate, _: Mapping[str, str]) -> SimpleNamespace:
        objects = self.engines[candidate]
        if objects is None:
            raise EngineError("no answer in time")
        return SimpleNamespace(objects=objects, info=SimpleNamespace(kind="some"), close=lambda: None)

    def _listed(self, engine: SimpleNamespace) -> list[OurObject]:
        return [
            OurObject("volume", name, name, "run", "/p", "qa", "r", None, state, "")
            for name, state in engine.objects.items()
        ]

    def _sweep(self, engine: SimpleNamespace) -> None:
        for name in [name for name, state in engine.objects.items() if state == "dead"]:
            del engine.objects[name]

    def end(self) -> list[str]:
        """What the end of the tests finds, which is a failure where there is any."""
        session = SimpleNamespace(exitstatus=pytest.ExitCode.OK)
        self.look.pytest_sessionfinish(session)  # type: ignore[arg-type]
        assert (session.exitstatus == pytest.ExitCode.TESTS_FAILED) == bool(self.look.left)
        return self.look.left


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


def test_what_is_new_and_cannot_be_swept_is_left(machine: Machine) -> None:
    machine.engines[DOCKER] = {"old": "kept"}
    machine.look.pytest_sessionstart()
    machine.engines[DOCKER] = {"old": "kept", "new": "kept", "killed": "dead", "cache": "cache"}
    assert machine.end() == ["volume new on some: run of /p, kept"]


def test_an_engine_that_was_not_there_before_is_not_compared(machine: Machine) -> None:
    machine.engines[PODMAN] = None
    machine.look.pytest_sessionstart()
    machine.engines[PODMAN] = {"somebody's": "kept"}
    assert machine.end() == []


def test_an_engine_that_is_gone_is_told(machine: Machine) -> None:
    machine.look.pytest_sessionstart()
    machine.engines[PODMAN] = None
    (line,) = machine.end()
    assert line.startswith("podman system service does not answer any more: no answer in time")
