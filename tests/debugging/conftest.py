"""Projects that are debugged: by a user at a terminal, on Docker and on Podman, and locally for comparison."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from rig.engines import DOCKER

from .projects import Project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pytest_envpar.engine.api import Engine


@pytest.fixture(scope="session")
def terminal_environ(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The hosts' environment without what the terminal of this session says."""
    ours = ("TERM", "COLUMNS", "LINES", "INPUTRC")
    return {name: value for name, value in environ.items() if not name.startswith(ours)}


@pytest.fixture
def make_project(
    tmp_path: Path, terminal_environ: Mapping[str, str]
) -> Iterator[Callable[[Engine, str], Project]]:
    """``make_project(engine, url)``: a project whose stages run there."""
    with contextlib.ExitStack() as stack:

        def make(engine: Engine, url: str) -> Project:
            made = Project(tmp_path / "project", engine, url, terminal_environ)
            return stack.enter_context(contextlib.closing(made))

        yield make


@pytest.fixture
def project(docker: Engine, make_project: Callable[[Engine, str], Project]) -> Project:
    """A project on Docker."""
    return make_project(docker, DOCKER)


@pytest.fixture
def podman_project(podman: Engine, make_project: Callable[[Engine, str], Project]) -> Project:
    """A project on Podman, through a service of the run's own."""
    return make_project(podman, "podman")
