"""Fixtures: projects on Docker and on Podman."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

import pytest
from rig.engines import DOCKER
from rig.needs import base_image, missing

from .daemons import Daemon
from .projects import Project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pytest_envpar.engine.api import Engine


@pytest.fixture
def project(tmp_path: Path, docker: Engine, environ: Mapping[str, str]) -> Iterator[Project]:
    """A project on Docker."""
    with contextlib.closing(
        Project(tmp_path / "project", base_image(docker), docker, DOCKER, environ)
    ) as made:
        yield made


@pytest.fixture
def podman_project(tmp_path: Path, podman: Engine, environ: Mapping[str, str]) -> Iterator[Project]:
    """A project on Podman, through a service of the run's own."""
    with contextlib.closing(
        Project(tmp_path / "project", base_image(podman), podman, "podman", environ)
    ) as made:
        yield made


@pytest.fixture
def daemon(tmp_path: Path, docker: Engine) -> Iterator[Daemon]:
    """A Docker daemon of the test's own, with the base image and one more runtime, ``noting``.

    The runtime is runc, and writes into the file ``called`` below ``tmp_path`` that it was asked.
    """
    runc = shutil.which("runc")
    why = Daemon.missing() or ("a second runtime needs runc" if runc is None else None)
    if why is not None:
        missing(why)
    noting = tmp_path / "noting"
    noting.write_text(f'#!/bin/sh\necho called >> {tmp_path}/called\nexec {runc} "$@"\n', encoding="utf-8")
    noting.chmod(0o755)
    with contextlib.closing(Daemon("--add-runtime", f"noting={noting}")) as made:
        made.start()
        made.take_image(base_image(docker), DOCKER)
        yield made


@pytest.fixture
def make_project(
    tmp_path: Path, docker: Engine, environ: Mapping[str, str]
) -> Iterator[Callable[[str], Project]]:
    """Several projects on Docker, by name."""
    with contextlib.ExitStack() as stack:

        def make(name: str) -> Project:
            made = Project(tmp_path / name / "project", base_image(docker), docker, DOCKER, environ)
            return stack.enter_context(contextlib.closing(made))

        yield make
