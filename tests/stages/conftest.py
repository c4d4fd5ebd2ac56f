"""Small projects whose suites run inside stages of a real engine, by a real host process."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from provision import SetupError, bases
from provision.client import Client
from provision.machine import Machine
from rig.engines import DOCKER
from rig.needs import base_image, missing

from pytest_envpar.containers.sweep import list_ours
from pytest_envpar.errors import EngineError

from .projects import Project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_envpar.engine.api import Engine


@pytest.fixture(scope="session")
def engine(docker: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The Docker daemon of this machine."""
    yield docker
    _remove_built(docker, tmp_path_factory.getbasetemp())


def _remove_built(engine: Engine, folder: Path) -> None:
    """Remove the images that runs of projects below ``folder`` have built and their tests have not removed."""
    for each in list_ours(engine):
        if each.type == "image" and each.project and Path(each.project).is_relative_to(folder):
            with contextlib.suppress(EngineError):
                engine.remove_image(each.name or each.id)


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """A name of a Debian image with Python 3.11 and without pytest."""
    return base_image(engine)


@pytest.fixture(scope="session")
def servers(engine: Engine) -> str:
    """The name of an image with PostgreSQL, Redis and nginx; made on first use, which takes about a minute."""
    machine = Machine.this(say=lambda _: None)
    try:
        with machine.one_at_a_time():
            return bases.ensure_services(machine, Client(DOCKER))
    except SetupError as error:
        missing(f"no image with servers: {error}")


@pytest.fixture
def make_project(
    tmp_path: Path, engine: Engine, image: str, environ: Mapping[str, str]
) -> Callable[[Path], Project]:
    """``make_project(folder)``: a project there."""

    def make(root: Path) -> Project:
        made = Project(root, image, engine, environ)
        made.stage()
        return made

    return make


@pytest.fixture
def project(tmp_path: Path, make_project: Callable[[Path], Project]) -> Project:
    """A project with one stage, ``qa``."""
    return make_project(tmp_path / "project")


@pytest.fixture
def plain(tmp_path: Path, environ: Mapping[str, str]) -> Project:
    """A project without a configuration and without an engine."""
    return Project(tmp_path / "plain", "", None, environ)


@pytest.fixture
def built(engine: Engine) -> Iterator[list[str]]:
    """Images that are removed after the test: names are appended to it."""
    names: list[str] = []
    yield names
    for name in names:
        with contextlib.suppress(EngineError):
            engine.remove_image(name)
