"""One project whose stage has plugins of others in its image, and a folder with the same ones for the host."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import re
import shutil
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
    from collections.abc import Iterator

    from pytest_envpar.engine.api import Engine

SOURCE = Path(__file__).parents[2]
sys.path.append(str(SOURCE / "fixtures"))
from provision import SetupError  # noqa: E402
from wheelhouse import wheelhouse  # noqa: E402

DOCKER = "unix:///var/run/docker.sock"
BASE = "envpar-base:py3.11"
PINS = SOURCE / "fixtures" / "plugins.txt"
ON_THE_HOST = re.compile(r"(pytest-|jinja2|markupsafe|typing-extensions)")
TIMEOUT_S = 180.0
_DOCKERFILE = f"""\
FROM {BASE}
COPY wheels /wheels
RUN python3 -m venv /venv && /venv/bin/pip install --quiet --no-index --find-links=/wheels /wheels/*.whl
"""


def missing(what: str) -> None:
    """Skip on a user's machine, fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} (a failure because CI is set)", pytrace=False)
    pytest.skip(what)


@dataclasses.dataclass(frozen=True)
class Ran:
    """How a run ended."""

    code: int
    text: str

    @property
    def order(self) -> list[str]:
        """Names of the tests in the order in which they were shown, each once."""
        return list(dict.fromkeys(re.findall(r"^\S+::(\w+) ", self.text, re.MULTILINE)))


@dataclasses.dataclass(frozen=True)
class Project:
    """The stages ``qa``, which has the plugins, and ``bare``, which has none.

    Args:
        plugins: A folder for ``PYTHONPATH`` that has them for the host.
    """

    root: Path
    plugins: Path
    environ: dict[str, str]

    def write(self, name: str, text: str) -> None:
        """Write a file; the text is dedented."""
        (self.root / name).write_text(textwrap.dedent(text), encoding="utf-8")

    def run(self, *args: str, stage: str = "qa", on_host: bool) -> Ran:
        """Run pytest in a stage, with the plugins on the host, too, or without."""
        host = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
        paths = [str(self.plugins)] if on_host else []
        if not any(point.name == "envpar" for point in importlib.metadata.entry_points(group="pytest11")):
            host += ["-p", "pytest_envpar.plugin"]
            paths.append(str(SOURCE))
        done = subprocess.run(
            [*host, f"--env={stage}", *args],
            cwd=self.root,
            env={**self.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert "INTERNALERROR" not in done.stdout, done.stdout
        return Ran(done.returncode, done.stdout)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The Docker daemon of this machine."""
    try:
        made = connect(Candidate("docker", DOCKER), dict(os.environ))
    except EngineError as error:
        missing(f"no docker: {error}")
        raise
    with contextlib.closing(made):
        if made.inspect_image(BASE) is None:
            missing(f"no {BASE}; run fixtures/setup_engine.py")
        yield made


@pytest.fixture(scope="session")
def project(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The project; the image that its first run builds is removed at the end."""
    folder = tmp_path_factory.mktemp("plugins")
    root, plugins = folder / "project", folder / "host"
    (root / "image").mkdir(parents=True)
    try:
        shutil.copytree(wheelhouse(PINS, python="3.11"), root / "image" / "wheels")
    except SetupError as error:
        missing("\n".join(error.lines()))
    pins = [line for line in PINS.read_text().splitlines() if ON_THE_HOST.match(line)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    ended = subprocess.run(
        [*command, f"--target={plugins}", *pins], capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        missing(f"pip install {' '.join(pins)}: {ended.stderr[-500:]}")
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "PYTHON", "TOX_", "COV_", "PY_COLORS", "FORCE_COLOR"))
        and name != "CI"
    }
    environ |= {"XDG_CACHE_HOME": str(folder / "cache"), "NO_COLOR": "1"}
    made = Project(root, plugins, environ)
    made.write("image/Dockerfile", _DOCKERFILE)
    made.write(
        "envpar.toml",
        f"""
        engine = "{DOCKER}"
        [stages.qa]
        build = {{ context = "image" }}
        python = "/venv/bin/python"
        network = "none"
        [stages.bare]
        image = "{BASE}"
        network = "none"
        """,
    )
    yield made
    for each in list_ours(engine):
        if each.type == "image" and each.project == str(root):
            engine.remove_image(each.name)
