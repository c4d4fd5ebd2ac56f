"""One project whose stage has plugins of others in its image, and a folder with the same ones for the host."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from provision import SetupError
from rig.engines import DOCKER
from rig.hosts import SOURCE
from rig.needs import images, missing
from wheelhouse import wheelhouse

from pytest_envpar.containers.sweep import list_ours

from .projects import Project

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_envpar.engine.api import Engine

BASE = "envpar-base:py3.11"
PINS = SOURCE / "fixtures" / "plugins.txt"
ON_THE_HOST = re.compile(r"(pytest-|jinja2|markupsafe|typing-extensions)")
_DOCKERFILE = f"""\
FROM {BASE}
COPY wheels /wheels
RUN python3 -m venv /venv && /venv/bin/pip install --quiet --no-index --find-links=/wheels /wheels/*.whl
"""


@pytest.fixture(scope="session")
def engine(docker: Engine) -> Engine:
    """The Docker daemon of this machine."""
    images(docker, [BASE])
    return docker


@pytest.fixture(scope="session")
def project(
    engine: Engine, environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """The project; the image that its first run builds is removed at the end."""
    folder = tmp_path_factory.mktemp("plugins")
    plugins = folder / "host"
    made = Project(folder / "project", plugins, environ)
    try:
        shutil.copytree(wheelhouse(PINS, python="3.11"), made.root / "image" / "wheels")
    except SetupError as error:
        missing("\n".join(error.lines()))
    pins = [line for line in PINS.read_text().splitlines() if ON_THE_HOST.match(line)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    ended = subprocess.run(
        [*command, f"--target={plugins}", *pins], capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        missing(f"pip install {' '.join(pins)}: {ended.stderr[-500:]}")
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
        if each.type == "image" and each.project == str(made.root):
            engine.remove_image(each.name)
