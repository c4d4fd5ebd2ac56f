"""Small projects and images whose differences are known, on real engines, used by real host processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from rig.engines import DOCKER
from rig.needs import base_image

from pytest_envpar.containers.sweep import list_ours
from pytest_envpar.errors import EngineError

from .projects import TIMEOUT_S, Project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pytest_envpar.engine.api import Engine


@pytest.fixture(scope="session")
def engine(docker: Engine) -> Engine:
    """The Docker daemon of this machine."""
    return docker


@pytest.fixture(scope="session")
def base(engine: Engine) -> str:
    """A Debian image with Python 3.11 and without pytest."""
    return base_image(engine)


@pytest.fixture(scope="session")
def build(base: str) -> Iterator[Callable[..., str]]:
    """``build(name, *lines)``: an image of Docker's from ``base`` and these lines of a Dockerfile, never from its
    cache. Removed at the end."""
    made: list[str] = []

    def make(name: str, *lines: str) -> str:
        tag = f"envpar-drift-test-{os.getpid()}:{name}"
        text = "\n".join([f"FROM {base}", *lines]) + "\n"
        done = subprocess.run(
            ["docker", "-H", DOCKER, "build", "-q", "--no-cache", "-t", tag, "-"],
            input=text.encode(),
            capture_output=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, done.stderr.decode()
        made.append(tag)
        return tag

    yield make
    if made:
        subprocess.run(
            ["docker", "-H", DOCKER, "rmi", "-f", *made], capture_output=True, check=False, timeout=60
        )


@pytest.fixture
def project(tmp_path: Path, environ: Mapping[str, str], engine: Engine) -> Iterator[Project]:
    """A project; no container of it may be left at the end, and its images are removed."""
    made = Project(tmp_path / "project", environ)
    yield made
    ours = [each for each in list_ours(engine) if each.project == str(made.root)]
    for each in ours:
        if each.type == "image":
            with contextlib.suppress(EngineError):
                engine.remove_image(each.name or each.id)
    assert [each for each in ours if each.type == "container"] == []
