"""Small projects and images whose differences are known, on real engines, used by real host processes."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.containers.sweep import list_ours
from pytest_envpar.engine.select import Candidate, connect
from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_envpar.engine.api import Engine

SOURCE = Path(__file__).parents[2]
BASE_IMAGES = ("envpar-base:py3.11", "base:bookworm", "python:3.11-slim")
DOCKER = "unix:///var/run/docker.sock"
TIMEOUT_S = 240.0


def missing(what: str) -> None:
    """Skip on a user's machine, fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} (a failure because CI is set)", pytrace=False)
    pytest.skip(what)


@dataclasses.dataclass(frozen=True)
class Done:
    """How a process ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All of it, for messages."""
        return f"exit {self.code}\n{self.out}\n--- stderr\n{self.err}"

    def exits(self, code: int, *shown: str) -> Done:
        """Assert the exit code and that every one of ``shown`` was printed, and return self."""
        assert self.code == code, self.text
        for part in shown:
            assert part in self.out + self.err, self.text
        assert "Traceback (most recent call last)" not in self.out + self.err, self.text
        return self


class Project:
    """A folder with a configuration, in which commands are run."""

    def __init__(self, root: Path, environ: Mapping[str, str]) -> None:
        self.root = root
        self.environ = dict(environ)
        root.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, text: str) -> Path:
        """Write a file; the text is dedented."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def stages(self, more: str = "", **images: str) -> None:
        """Write the configuration: a stage for each image."""
        tables = "\n".join(
            f'[stages.{name}]\nimage = "{image}"\nnetwork = "none"\n' for name, image in images.items()
        )
        self.write("envpar.toml", f'engine = "{DOCKER}"\n{tables}\n{textwrap.dedent(more)}')

    def envpar(self, *args: str) -> Done:
        """Run the command."""
        return self._run("-m", "pytest_envpar", *args)

    def pytest(self, *args: str, **environ: str) -> Done:
        """Run pytest."""
        installed = any(point.name == "envpar" for point in importlib.metadata.entry_points(group="pytest11"))
        return self._run(
            "-m", "pytest", *(() if installed else ("-p", "pytest_envpar.plugin")), *args, **environ
        )

    def _run(self, *args: str, **environ: str) -> Done:
        done = subprocess.run(
            [sys.executable, *args],
            cwd=self.root,
            env={**self.environ, "PYTHONPATH": str(SOURCE), **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The hosts' environment: nothing of this session's pytest, a cache for all of them, and not that of CI."""
    dropped = (
        "PYTEST",
        "PYTHON",
        "TOX_",
        "COV_",
        "DOCKER_",
        "CONTAINER_",
        "PY_COLORS",
        "FORCE_COLOR",
        "ENVPAR_",
    )
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(dropped) and name != "CI"
    }
    environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    environ["NO_COLOR"] = "1"
    return environ


@pytest.fixture(scope="session")
def engine(environ: Mapping[str, str]) -> Iterator[Engine]:
    """The Docker daemon of this machine."""
    try:
        made = connect(Candidate("docker", DOCKER), environ)
    except EngineError as error:
        missing(f"no docker: {error}")
        raise
    with contextlib.closing(made):
        yield made


@pytest.fixture(scope="session")
def base(engine: Engine) -> str:
    """A Debian image with Python 3.11 and without pytest."""
    for name in BASE_IMAGES:
        if engine.inspect_image(name) is not None:
            return name
    missing(f"none of {', '.join(BASE_IMAGES)}; run fixtures/setup_engine.py")
    raise AssertionError


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


def deb(name: str, version: str, **files: str) -> str:
    """A line of a Dockerfile that makes a package with Debian's own tools, and installs it.

    Args:
        files: Contents by name below ``/usr/lib/NAME``.
    """
    top = f"/tmp/{name}"
    control = f"Package: {name}\\nVersion: {version}\\nArchitecture: all\\nMaintainer: a <a@b.c>\\nDescription: test\\n"
    steps = [f"mkdir -p {top}/DEBIAN {top}/usr/lib/{name}", f"printf '{control}' > {top}/DEBIAN/control"]
    steps += [f"printf '{content}' > {top}/usr/lib/{name}/{file}" for file, content in files.items()]
    steps += [
        f"(cd {top} && md5sum usr/lib/{name}/* > DEBIAN/md5sums)",
        f"dpkg-deb --build {top} {top}.deb >/dev/null",
        f"dpkg -i {top}.deb",
        f"rm -r {top} {top}.deb",
    ]
    return "RUN " + " && ".join(steps)


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
