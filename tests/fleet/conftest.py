"""Projects with several stages, run by real host processes on Docker."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.containers.sweep import list_ours
from pytest_envpar.engine.select import Candidate, connect
from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_envpar.engine.api import Engine

SOURCE = Path(__file__).parents[2]
DOCKER = "unix:///var/run/docker.sock"
IMAGES = {"dev": "envpar-base:py3.13", "qa": "envpar-base:py3.11", "old": "envpar-base:py3.9"}
OURS = ("Traceback (most recent call last)", "INTERNALERROR", "pytest_envpar/session", "pytest_envpar/worker")
TIMEOUT_S = 180.0


def missing(what: str) -> None:
    """Skip on a user's machine, fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} (a failure because CI is set)", pytrace=False)
    pytest.skip(what)


class Ran:
    """What the user sees of one run."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err
        self.text = f"exit {code}\n{out}\n--- stderr\n{err}"

    @property
    def line(self) -> str:
        """The closing line without its frame and time."""
        last = self.out.strip().splitlines()[-1:]
        return re.sub(r" in [\d.:()s ]+$", "", last[0].strip("= ")) if last else ""

    def section(self, title: str) -> list[str]:
        """The lines below a section's title."""
        lines = self.out.splitlines()
        starts = [number for number, line in enumerate(lines) if re.fullmatch(rf"[=_]+ {title} [=_]+", line)]
        assert len(starts) == 1, self.text
        rest = lines[starts[0] + 1 :]
        ends = [number for number, line in enumerate(rest) if line.startswith("=====")]
        return rest[: ends[0]] if ends else rest

    def ended(self, code: int, line: str | None = None) -> Ran:
        """Assert exit status and closing line, and return self."""
        assert self.code == code, self.text[-6000:]
        assert line is None or self.line == line, self.text[-6000:]
        return self


class Project:
    """A project in a folder of its own, with stages of the test images and without a network."""

    def __init__(self, root: Path, engine: Engine, environ: Mapping[str, str]) -> None:
        self.root = root
        self.engine = engine
        self.environ = dict(environ)
        root.mkdir(parents=True, exist_ok=True)

    def configure(self, *stages: str, top: str = "", **more: str) -> None:
        """Write the configuration.

        Args:
            stages: Names of ``IMAGES``.
            top: Lines before the first table.
            more: Lines for the table of a stage, or a whole table for a stage of another name.
        """
        text = f'engine = "{DOCKER}"\n{top}\n'
        for name in (*stages, *(name for name in more if name not in stages)):
            image = f'image = "{IMAGES[name]}"\nnetwork = "none"\n' if name in stages else ""
            text += f"[stages.{name}]\n{image}{more.get(name, '')}\n"
        self.write("envpar.toml", text)

    def write(self, name: str, text: str) -> Path:
        """Write a file of the project; the text is dedented."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def start(
        self, *args: str, host: Sequence[str] = (sys.executable,), **environ: str
    ) -> subprocess.Popen[str]:
        """Start pytest with these arguments."""
        installed = any(point.name == "envpar" for point in importlib.metadata.entry_points(group="pytest11"))
        return subprocess.Popen(
            [*host, "-m", "pytest", *([] if installed else ["-p", "pytest_envpar.plugin"]), *args],
            cwd=self.root,
            env={**self.environ, **({} if installed else {"PYTHONPATH": str(SOURCE)}), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen[str], seen: str = "", *, may_trace: bool = False) -> Ran:
        """Wait for a run; no error of ours may be a traceback, and nothing be left on the engine.

        Args:
            seen: What was read of its output already.
        """
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            pytest.fail(f"the run did not end\n{seen}{out}\n{err}")
        result = Ran(process.returncode, seen + out, err)
        for mark in () if may_trace else OURS:
            assert mark not in result.out + result.err, result.text[-8000:]
        left = [
            each
            for each in list_ours(self.engine)
            if each.state != "cache" and each.kind != "image" and each.project == str(self.root)
        ]
        assert left == [], result.text[-8000:]
        return result

    def run(
        self, *args: str, host: Sequence[str] = (sys.executable,), may_trace: bool = False, **environ: str
    ) -> Ran:
        """Run pytest with these arguments to its end."""
        return self.end(self.start(*args, host=host, **environ), may_trace=may_trace)

    def junit(self, name: str = "junit.xml") -> dict[str, ET.Element]:
        """The test cases of a JUnit file by class and name."""
        cases = ET.parse(self.root / name).getroot().iter("testcase")
        return {f"{case.get('classname')}.{case.get('name')}": case for case in cases}


@pytest.fixture(scope="session")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The hosts' environment: nothing of this session's pytest, and one cache for all of them."""
    unwanted = ("PYTEST", "PYTHON", "TOX_", "COV", "DOCKER_", "CONTAINER_", "PY_COLORS", "FORCE_COLOR")
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(unwanted) and name != "CI"
    }
    environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    environ["NO_COLOR"] = "1"
    return environ


@pytest.fixture(scope="session")
def engine(environ: Mapping[str, str]) -> Iterator[Engine]:
    """The Docker daemon of this machine, with the test images."""
    try:
        made = connect(Candidate("docker", DOCKER), environ)
    except EngineError as error:
        missing(f"no docker: {error}")
        raise
    with contextlib.closing(made):
        for image in IMAGES.values():
            if made.inspect_image(image) is None:
                missing(f"no image {image}; run fixtures/setup_engine.py")
        yield made


@pytest.fixture
def project(tmp_path: Path, engine: Engine, environ: Mapping[str, str]) -> Project:
    """A project with the stages ``dev`` and ``qa``."""
    made = Project(tmp_path / "project", engine, environ)
    made.configure("dev", "qa")
    return made
