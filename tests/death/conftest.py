"""Fixtures: projects on Docker and on Podman."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemons import Daemon
from projects import DOCKER, Project, base_image, missing

from pytest_envpar.engine.select import Candidate, connect
from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_envpar.engine.api import Engine


@pytest.fixture(scope="session")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The hosts' environment: nothing of this session's pytest, one cache for all, Podman made to work here.

    Nor is it that of CI, where a stage has to be locked before it runs.
    """
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(
            ("PYTEST", "PYTHON", "TOX_", "COV_", "DOCKER_", "CONTAINER_", "PY_COLORS", "FORCE_COLOR")
        )
        and name != "CI"
    }
    environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    lines = []
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if 0 <= hard < 1 << 20:
        limit = min(4096, hard)
        lines += ["[containers]", f'default_ulimits = ["nofile={limit}:{limit}", "nproc=4096:4096"]']
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        lines += ["[engine]", 'runtime = "runc"']
    if lines:
        file = tmp_path_factory.mktemp("podman") / "containers.conf"
        file.write_text("\n".join([*lines, ""]), encoding="utf-8")
        environ["CONTAINERS_CONF"] = str(file)
    return environ


def _connected(kind: str, environ: Mapping[str, str]) -> Engine:
    candidate = Candidate("docker", DOCKER) if kind == "docker" else Candidate("podman system service", "")
    try:
        return connect(candidate, environ)
    except EngineError as error:
        missing(f"no {kind}: {error}")
        raise


@pytest.fixture(scope="session")
def docker(environ: Mapping[str, str]) -> Iterator[Engine]:
    """The Docker daemon of this machine."""
    with contextlib.closing(_connected("docker", environ)) as engine:
        yield engine


@pytest.fixture(scope="session")
def podman(environ: Mapping[str, str]) -> Iterator[Engine]:
    """A Podman service that the tests look through; the runs start their own."""
    with contextlib.closing(_connected("podman", environ)) as engine:
        yield engine


@pytest.fixture
def project(tmp_path: Path, docker: Engine, environ: Mapping[str, str]) -> Iterator[Project]:
    """A project on Docker."""
    root = tmp_path / "project"
    root.mkdir()
    with contextlib.closing(Project(root, base_image(docker), docker, DOCKER, environ)) as made:
        yield made


@pytest.fixture
def podman_project(tmp_path: Path, podman: Engine, environ: Mapping[str, str]) -> Iterator[Project]:
    """A project on Podman, through a service of the run's own."""
    root = tmp_path / "project"
    root.mkdir()
    with contextlib.closing(Project(root, base_image(podman), podman, "podman", environ)) as made:
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
            root = tmp_path / name / "project"
            root.mkdir(parents=True)
            made = Project(root, base_image(docker), docker, DOCKER, environ)
            return stack.enter_context(contextlib.closing(made))

        yield make
