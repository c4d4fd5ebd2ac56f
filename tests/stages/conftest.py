"""Small projects whose suites run inside stages of a real engine, by a real host process."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import re
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
sys.path.insert(0, str(SOURCE / "fixtures"))
from provision import SetupError, bases  # noqa: E402
from provision.client import Client  # noqa: E402
from provision.machine import Machine  # noqa: E402

BASE_IMAGES = ("envpar-base:py3.11", "base:bookworm", "python:3.11-slim")
DOCKER = "unix:///var/run/docker.sock"
OURS = ("Traceback (most recent call last)", "INTERNALERROR", "pytest_envpar/session", "pytest_envpar/worker")
TIMEOUT_S = 120.0


def missing(what: str) -> None:
    """Skip on a user's machine, fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} (a failure because CI is set)", pytrace=False)
    pytest.skip(what)


@dataclasses.dataclass(frozen=True)
class Result:
    """What the user sees of one run."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both streams, for messages."""
        return f"exit {self.code}\n{self.out}\n--- stderr\n{self.err}"

    @property
    def line(self) -> str:
        """The closing line without its frame and time."""
        last = self.out.strip().splitlines()[-1:]
        return re.sub(r" in [\d.]+s.*", "", last[0].strip("= ")) if last else ""

    def ok(self) -> Result:
        """Assert that all passed, and return self."""
        assert self.code == 0, self.text
        return self

    def refused(self, *shown: str, code: int = 4) -> Result:
        """Assert that the run ended with a message of ours that has all of ``shown``, and return self."""
        assert self.code == code, self.text
        for part in shown:
            assert part in self.err, self.text
        return self


class Project:
    """A project in a folder of its own, configured by ``envpar.toml``."""

    def __init__(self, root: Path, image: str, engine: Engine | None, environ: Mapping[str, str]) -> None:
        self.root = root
        self.image = image
        self._engine = engine
        self.environ = dict(environ)

    @property
    def engine(self) -> Engine:
        """The engine that its stages run on."""
        assert self._engine is not None
        return self._engine

    def stage(self, *lines: str, top: str = "", name: str = "qa") -> None:
        """Write the configuration: one stage of the base image without a network, with ``lines`` added."""
        given = "\n".join(lines)
        text = f'engine = "{DOCKER}"\n{top}\n[stages.{name}]\n'
        if not re.search(r"^(image|build|extends)\b", given, re.MULTILINE):
            text += f'image = "{self.image}"\n'
        if not re.search(r"^network\b", given, re.MULTILINE):
            text += 'network = "none"\n'
        self.write("envpar.toml", text + given + "\n")

    def write(self, name: str, text: str) -> Path:
        """Write a file of the project; the text is dedented."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def run(
        self,
        *args: str,
        stage: str | None = "qa",
        cwd: Path | None = None,
        command: str = "pytest",
        may_trace: bool = False,
        alone: bool = True,
        **environ: str,
    ) -> Result:
        """Run pytest with ``--env=qa`` to its end; no error of ours may be a traceback, and nothing be left.

        Args:
            alone: Whether no other run of the project is under way, whose containers would look like left ones.
        """
        host = ["-m", "pytest"] if command == "pytest" else ["-m", "pytest_envpar", "run"]
        installed = any(point.name == "envpar" for point in importlib.metadata.entry_points(group="pytest11"))
        if command == "pytest" and not installed:
            host += ["-p", "pytest_envpar.plugin"]
        done = subprocess.run(
            [sys.executable, *host, *([f"--env={stage}"] if stage else []), *args],
            cwd=cwd or self.root,
            env={**self.environ, **({} if installed else {"PYTHONPATH": str(SOURCE)}), **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
        result = Result(done.returncode, done.stdout, done.stderr)
        for mark in () if may_trace else OURS:
            assert mark not in result.out + result.err, result.text[-8000:]
        left = [
            each
            for each in (list_ours(self._engine) if self._engine is not None else ())
            if each.state != "cache" and each.kind != "image" and each.project == str(self.root)
        ]
        assert left == [] or not alone, f"{left}\n{result.text}"
        return result

    def snapshot(self) -> dict[str, tuple[int, int, bytes]]:
        """Every file of the project: mode, time and content. Left out is what a run is to write: pytest's cache on the
        host and the lock file."""
        return {
            str(path.relative_to(self.root)): (
                path.lstat().st_mode,
                path.lstat().st_mtime_ns if path.is_file() else 0,
                path.read_bytes() if path.is_file() else b"",
            )
            for path in sorted(self.root.rglob("*"))
            if not {".pytest_cache", "envpar.lock"}.intersection(path.parts)
        }

    def suite(self, code: str, *args: str, stage: str = "qa") -> Result:
        """Write ``code`` as the only test file, run it, and return the result."""
        self.write("test_it.py", code)
        return self.run(*args, stage=stage)


@pytest.fixture(scope="session")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The hosts' environment: nothing of this session's pytest, and one cache for all of them.

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
    environ["NO_COLOR"] = "1"
    return environ


@pytest.fixture(scope="session")
def engine(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The Docker daemon of this machine."""
    try:
        made = connect(Candidate("docker", DOCKER), environ)
    except EngineError as error:
        missing(f"no docker: {error}")
        raise
    with contextlib.closing(made):
        yield made
        _remove_built(made, tmp_path_factory.getbasetemp())


def _remove_built(engine: Engine, folder: Path) -> None:
    """Remove the images that runs of projects below ``folder`` have built and their tests have not removed."""
    for each in list_ours(engine):
        if each.type == "image" and each.project and Path(each.project).is_relative_to(folder):
            with contextlib.suppress(EngineError):
                engine.remove_image(each.name or each.id)


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """A name of a Debian image with Python 3.11 and without pytest."""
    for name in BASE_IMAGES:
        if engine.inspect_image(name) is not None:
            return name
    missing(f"none of {', '.join(BASE_IMAGES)}; run fixtures/setup_engine.py")
    raise AssertionError


@pytest.fixture(scope="session")
def servers(engine: Engine) -> str:
    """The name of an image with PostgreSQL, Redis and nginx; made on first use, which takes about a minute."""
    machine = Machine.this(say=lambda _: None)
    try:
        with machine.one_at_a_time():
            return bases.ensure_services(machine, Client(DOCKER))
    except SetupError as error:
        missing(f"no image with servers: {error}")
        raise


@pytest.fixture
def make_project(
    tmp_path: Path, engine: Engine, image: str, environ: Mapping[str, str]
) -> Callable[[Path], Project]:
    """``make_project(folder)``: a project there."""

    def make(root: Path) -> Project:
        root.mkdir(parents=True, exist_ok=True)
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
    root = tmp_path / "plain"
    root.mkdir()
    return Project(root, "", None, environ)


@pytest.fixture
def built(engine: Engine) -> Iterator[list[str]]:
    """Images that are removed after the test: names are appended to it."""
    names: list[str] = []
    yield names
    for name in names:
        with contextlib.suppress(EngineError):
            engine.remove_image(name)
