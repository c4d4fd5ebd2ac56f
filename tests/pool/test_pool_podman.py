"""A pool of one Docker and one Podman."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest
from rig.engines import DOCKER, left, podman_settings
from rig.hosts import clean_environ
from rig.needs import images, missing, module

from pytest_envpar.engine.docker_api import DockerEngine
from pytest_envpar.engine.podman_service import PodmanService
from pytest_envpar.errors import EngineError
from pytest_envpar.images.tags import COPIES

from .daemons import PATH
from .projects import IMAGES, NearProject

module("xdist")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_envpar.engine.api import Engine

    from .projects import Project

pytestmark = pytest.mark.engine


@pytest.fixture
def service(tmp_path: Path) -> Iterator[PodmanService]:
    """A Podman service."""
    try:
        made = PodmanService.start({**os.environ, **podman_settings(tmp_path)})
    except EngineError as error:
        missing(f"no podman: {error}")
    with contextlib.closing(made):
        yield made


@pytest.fixture
def podman(tmp_path: Path, near: Engine, service: PodmanService) -> Iterator[DockerEngine]:
    """A look at what the service has; the image that the pool brought from one to the other does not stay."""
    with contextlib.closing(DockerEngine(service.url)) as engine:
        images(engine, [IMAGES["qa"]])
        both = (near, engine)
        found = [each.inspect_image(IMAGES["qa"]) for each in both]
        ours = {each.id for each in found if each is not None}
        before = {each: each.list_tagged(COPIES) for each in both}
        yield engine
        for each, known in before.items():
            for image in each.list_tagged(COPIES):
                # Runs of others bring images, too.
                if image.id in ours and image not in known:
                    each.remove_image(image.name)
        assert left(engine, tmp_path / "project") == []


@pytest.fixture
def near_project(tmp_path: Path, near: Engine) -> NearProject:
    """A project that needs neither the second Docker nor ssh."""
    return NearProject(tmp_path / "project", near, {**clean_environ(tmp_path / "cache"), "PATH": PATH})


@pytest.mark.parametrize("first", ["docker", pytest.param("podman", marks=pytest.mark.slow)])
def test_workers_on_both(
    near_project: NearProject, podman: DockerEngine, service: PodmanService, first: str
) -> None:
    project = near_project
    urls = [DOCKER, service.url]
    project.configure(*(urls if first == "docker" else reversed(urls)))
    project.write(
        "test_it.py",
        """
        import pathlib, pytest, time
        @pytest.mark.parametrize("n", range(6))
        def test_n(n, envpar_stage):
            pathlib.Path(f"stray{n}").write_text("inside only")
            print("ran on", envpar_stage.engine)
            time.sleep(0.2)
        def test_fails(): assert [1, 2] == [1, 3]
        """,
    )
    result = project.run("--env=qa", "-n2", "-rA").ended(1, "1 failed, 6 passed")
    assert "lost" not in result.out
    # An image of that name is on both, but what the first one has is what all run.
    image = (project.near if first == "docker" else podman).inspect_image(IMAGES["qa"])
    assert image is not None
    other = podman if first == "docker" else project.near
    assert image.id in [each.id for each in other.list_tagged(COPIES)]
    assert "ran on docker" in result.out
    assert "ran on podman" in result.out
    assert "At index 1 diff: 2 != 3" in result.out
    assert not list(project.root.glob("stray*"))


@pytest.mark.slow
def test_the_other_kind_takes_over(project: Project, podman: DockerEngine, service: PodmanService) -> None:
    """Docker goes away while its first test runs, and Podman runs all of them."""
    assert podman.info.kind == "podman"
    project.configure(project.second.url, service.url)
    project.write(
        "test_it.py",
        """
        import os, pytest
        @pytest.mark.parametrize("n", range(3))
        def test_n(n, envpar_stage):
            os.write(1, f"{n} on {envpar_stage.engine}\\n".encode())
            if envpar_stage.engine.startswith("docker"):
                while True: pass
        """,
    )
    run = project.start("--env=qa", "-s", "-v")
    run.wait_for("0 on docker")
    project.second.kill()
    result = project.end(run).ended(0, "3 passed")
    assert [f"{n} on podman" in result.out for n in range(3)] == [True] * 3
    assert result.out.count("was lost: its share ran elsewhere") == 1
