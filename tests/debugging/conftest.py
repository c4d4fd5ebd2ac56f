"""Projects that are debugged: by a user at a terminal, on Docker and on Podman, and locally for comparison."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import resource
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from terminal import Session, Terminal

from pytest_envpar.containers.sweep import list_ours
from pytest_envpar.engine.select import Candidate, connect
from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_envpar.engine.api import Engine

SOURCE = Path(__file__).parents[2]
DOCKER = "unix:///var/run/docker.sock"
BASE_IMAGES = ("envpar-base:py3.11", "base:bookworm", "python:3.11-slim")
OURS = ("INTERNALERROR", "pytest_envpar/session", "pytest_envpar/worker")
TIMEOUT_S = 180.0


def missing(what: str) -> None:
    """Skip on a user's machine, fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} (a failure because CI is set)", pytrace=False)
    pytest.skip(what)


class Project:
    """A project in a folder of its own with the stages ``qa`` and ``dev``."""

    def __init__(self, root: Path, engine: Engine, url: str, environ: Mapping[str, str]) -> None:
        self.root = root
        self.environ = dict(environ)
        self.engine = engine
        self._terminals: list[Terminal] = []
        image = next((name for name in BASE_IMAGES if engine.inspect_image(name) is not None), None)
        if image is None:
            missing(f"none of {', '.join(BASE_IMAGES)} on {engine.info.kind}; run fixtures/setup_engine.py")
        stages = "".join(f'[stages.{name}]\nimage = "{image}"\nnetwork = "none"\n' for name in ("qa", "dev"))
        self.write("envpar.toml", f'engine = "{url}"\n{stages}')

    def write(self, name: str, text: str) -> None:
        """Write a file of the project; the text is dedented."""
        (self.root / name).write_text(textwrap.dedent(text), encoding="utf-8")

    def _command(self, stage: str | None, args: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
        environ = self.environ
        if not any(point.name == "envpar" for point in importlib.metadata.entry_points(group="pytest11")):
            command += ["-p", "pytest_envpar.plugin"]
            environ = {**environ, "PYTHONPATH": str(SOURCE)}
        return [*command, *([f"--env={stage}"] if stage else []), *args], environ

    def at_terminal(self, *args: str, stage: str | None = "qa", **more: object) -> Terminal:
        """Start pytest at a terminal."""
        command, environ = self._command(stage, args)
        made = Terminal(command, self.root, environ, **more)  # type: ignore[arg-type]
        self._terminals.append(made)
        return made

    def with_input(self, data: bytes | None, *args: str, stage: str | None = "qa") -> tuple[int, str]:
        """Run pytest with ``data`` on standard input, or none; returns exit status and output."""
        command, environ = self._command(stage, args)
        ended = subprocess.run(
            command,
            cwd=self.root,
            env=environ,
            stdin=subprocess.DEVNULL if data is None else None,
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
        )
        return ended.returncode, ended.stdout.decode(errors="replace")

    def clean(self, session: Session) -> Session:
        """Assert that nothing is left, neither on the engine nor in the terminal's settings."""
        assert session.restored, session.text
        for mark in OURS:
            assert mark not in session.text, session.text
        left = [
            each
            for each in list_ours(self.engine)
            if each.state != "cache" and each.kind != "image" and each.project == str(self.root)
        ]
        assert left == [], session.text
        return session

    def close(self) -> None:
        """End what a failed test left running."""
        for terminal in self._terminals:
            terminal.close()


def same(text: str) -> list[str]:
    """The lines of a run, without what differs between a local run and one in a stage."""
    kept = []
    for line in text.splitlines():
        if re.match(r"platform |plugins: |envpar: |hypothesis profile|collecting 0 items|\s*$", line):
            continue
        short = re.sub(r"/\S*/(?=_pytest/|pluggy/|bdb\.py|pdb\.py|unittest/)", "", line)
        kept.append(re.sub(r"^=+ (.*) in [\d.]+s =+$", r"= \1 =", re.sub(r"0x[0-9a-f]+", "0x", short)))
    return kept


@pytest.fixture(scope="session")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The hosts' environment: nothing of this session's pytest, one cache for all, Podman made to work here.

    Nor is it that of CI, where a stage has to be locked before it runs.
    """
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(
            ("PYTEST", "PYTHON", "TOX_", "COV_", "DOCKER_", "CONTAINER_", "PY_COLORS", "FORCE_COLOR", "TERM")
        )
        and name not in ("CI", "COLUMNS", "LINES", "INPUTRC")
    }
    environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    environ["NO_COLOR"] = "1"
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
def make_project(tmp_path: Path, environ: Mapping[str, str]) -> Iterator[Callable[[Engine, str], Project]]:
    """``make_project(engine, url)``: a project whose stages run there."""
    with contextlib.ExitStack() as stack:

        def make(engine: Engine, url: str) -> Project:
            root = tmp_path / "project"
            root.mkdir()
            return stack.enter_context(contextlib.closing(Project(root, engine, url, environ)))

        yield make


@pytest.fixture
def project(docker: Engine, make_project: Callable[[Engine, str], Project]) -> Project:
    """A project on Docker."""
    return make_project(docker, DOCKER)


@pytest.fixture
def podman_project(podman: Engine, make_project: Callable[[Engine, str], Project]) -> Project:
    """A project on Podman, through a service of the run's own."""
    return make_project(podman, "podman")
