"""A pool of engines and a real registry: each engine pulls what it can reach, and the rest is brought to it."""

from __future__ import annotations

import contextlib
import io
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import docker as sdk
import pytest
from registry.servers import serving
from rig.engines import DOCKER
from rig.needs import module, registry_program

from pytest_envpar.errors import EngineError
from pytest_envpar.images.tags import COPIES

from .projects import IMAGES, Project

module("xdist")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_envpar.engine.api import Engine

# What a registry and two daemons have to pack and unpack takes its time.
pytestmark = [pytest.mark.engine, pytest.mark.slow]

SUITE = """
    import pytest
    @pytest.mark.parametrize("n", range(6))
    def test_n(n): assert open(__file__)
"""


@pytest.fixture(scope="module")
def program() -> Path:
    """The registry program."""
    return registry_program()


class Pushed:
    """An image that only a registry has, which engines know as ``reference`` when they have pulled it."""

    def __init__(self, project: Project, host: str) -> None:
        self.name = f"{host}/pool/{secrets.token_hex(6)}"
        self.reference = f"{self.name}:1"
        self._project = project
        client = sdk.DockerClient(DOCKER)
        with contextlib.closing(client):
            # An image id of its own, so that no engine has it from another test.
            recipe = io.BytesIO(f"FROM {IMAGES['qa']}\nLABEL pool={self.name}\n".encode())
            image, _ = client.images.build(fileobj=recipe, tag=self.reference, rm=True)
            self.id = str(image.id)
            try:
                told = list(client.images.push(self.reference, stream=True, decode=True))
            finally:
                project.near.remove_image(self.reference, force=True)
        digests = [str(line["aux"]["Digest"]) for line in told if "aux" in line]
        assert digests, told
        self.digest = digests[0]
        assert project.near.inspect_image(self.id) is None

    def on(self, engine: Engine) -> bool:
        """Whether an engine of the project has pulled it by its digest."""
        found = engine.inspect_image(f"{self.name}@{self.digest}")
        return found is not None and found.id == self.id

    def remove(self) -> None:
        """Remove it from both engines, whatever became of the other."""
        near = self._project.near
        with contextlib.suppress(EngineError):
            near.remove_image(self.id, force=True)
        with contextlib.closing(self._project.second.connect()) as far:
            with contextlib.suppress(EngineError):
                far.remove_image(self.id, force=True)
            assert far.inspect_image(self.id) is None
        assert near.inspect_image(self.id) is None


@pytest.fixture
def near_by(project: Project, program: Path, tmp_path: Path) -> Iterator[Pushed]:
    """An image of a registry that both engines reach."""
    address = project.second.near
    with serving(program, tmp_path / "registry", address=address, tls=True) as registry:
        assert registry.cafile is not None
        # Both daemons read the same folder.
        trusted = Path("/etc/docker/certs.d", registry.host)
        trusted.mkdir(parents=True)
        try:
            shutil.copy(registry.cafile, trusted / "ca.crt")
            pushed = Pushed(project, registry.host)
            yield pushed
            pushed.remove()
        finally:
            shutil.rmtree(trusted)
            with contextlib.suppress(OSError):
                trusted.parent.rmdir()


@pytest.fixture
def far_off(project: Project, program: Path, tmp_path: Path) -> Iterator[Pushed]:
    """An image of a registry on this machine's loopback, which is not that of the second engine."""
    with serving(program, tmp_path / "registry") as registry:
        pushed = Pushed(project, registry.host)
        yield pushed
        pushed.remove()


def locked(project: Project, pushed: Pushed, *urls: str) -> None:
    project.write("test_it.py", SUITE)
    project.configure(*urls)
    config = project.root / "envpar.toml"
    config.write_text(config.read_text().replace(IMAGES["qa"], pushed.reference))
    # By the engine of this machine alone, which keeps nothing of it.
    project.run("lock", f"--engine={project.urls[0]}", module="pytest_envpar").ended(0)
    assert pushed.digest in (project.root / "envpar.lock").read_text()
    project.near.remove_image(pushed.id, force=True)


def test_each_engine_pulls_by_digest(project: Project, near_by: Pushed) -> None:
    locked(project, near_by, *project.urls)
    result = project.run("--env=qa", "-n2", "-v", "--env-frozen").ended(0, "6 passed")
    assert near_by.digest[:19] in result.out
    for worker in ("gw0", "gw1"):
        assert f"[{worker}]" in result.out
    with contextlib.closing(project.second.connect()) as far:
        assert near_by.on(project.near)
        assert near_by.on(far)
        assert near_by.id not in [each.id for each in far.list_tagged(COPIES)]
    assert "copied" not in result.err


@pytest.mark.parametrize("first", ["reaches", "reaches not"])
def test_an_engine_that_does_not_reach_the_registry(project: Project, far_off: Pushed, first: str) -> None:
    urls = project.urls if first == "reaches" else list(reversed(project.urls))
    locked(project, far_off, *urls)
    result = project.run("--env=qa", "-n2", "-v", "--env-frozen").ended(0, "6 passed")
    for worker in ("gw0", "gw1"):
        assert f"[{worker}]" in result.out
    assert "lost" not in result.out
    assert result.err.count("envpar: copied") == 1
    with contextlib.closing(project.second.connect()) as far:
        assert far_off.on(project.near)
        assert far_off.id in [each.id for each in far.list_tagged(COPIES)]
