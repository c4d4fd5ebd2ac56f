"""Projects with several stages on Docker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rig.needs import images

from .projects import IMAGES, Project

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_envpar.engine.api import Engine


@pytest.fixture(scope="session")
def engine(docker: Engine) -> Engine:
    """The Docker daemon of this machine, with the test images."""
    images(docker, IMAGES.values())
    return docker


@pytest.fixture
def project(tmp_path: Path, engine: Engine, environ: Mapping[str, str]) -> Project:
    """A project with the stages ``dev`` and ``qa``."""
    made = Project(tmp_path / "project", engine, environ)
    made.configure("dev", "qa")
    return made
