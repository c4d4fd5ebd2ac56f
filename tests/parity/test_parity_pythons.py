"""Other Pythons and other pytests inside: the same outcome for each test as in a local run."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from provision import SetupError
from wheelhouse import wheelhouse

from pytest_envpar.containers.sweep import list_ours
from pytest_envpar.engine.select import select_engine

from . import compare, sample
from . import twin as twins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.engine

OWN_PYTEST = {
    "7.4.4": ("iniconfig==2.1.0", "packaging==25.0", "pluggy==1.5.0"),
    "8.3.5": ("iniconfig==2.1.0", "packaging==25.0", "pluggy==1.6.0"),
}
_DOCKERFILE = """\
FROM {base}
COPY wheels /wheels
RUN python3 -m venv /venv && /venv/bin/pip install --quiet --no-index --find-links=/wheels pytest
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder for a twin; the images that its stages built are removed afterwards."""
    yield tmp_path / "twin"
    with contextlib.closing(select_engine(("auto",), dict(os.environ))) as engine:
        for each in list_ours(engine):
            if each.type == "image" and Path(each.project).is_relative_to(tmp_path):
                engine.remove_image(each.name)


def differences_without_subtests(twin: twins.Twin) -> list[compare.Difference]:
    """What differs; where the inside has no subtests, their module is skipped as a whole."""
    _, right = twin.run("-q", "--junitxml=result.xml")
    assert right.code == 1, right.raw[-2000:] + right.err
    here, there = (compare.outcomes(side / "result.xml") for side in twin.sides)
    return [
        entry
        for entry in compare.differences(here, there)
        if not entry.nodeid.startswith("tests.test_subtests")
    ]


@pytest.mark.parametrize("name", ["py3.9", "py3.13", pytest.param("py3.14", marks=pytest.mark.slow)])
def test_same_outcomes_with_another_python(name: str, tmp_path: Path, image: Callable[[str], str]) -> None:
    reference = image(f"envpar-base:{name}")
    twin = twins.Twin.of(tmp_path, lambda side: sample.write(side, image=reference))
    found = differences_without_subtests(twin)
    assert not found, "\n".join(compare.table(found, "local", name))


@pytest.mark.slow
@pytest.mark.parametrize("version", list(OWN_PYTEST))
def test_same_outcomes_with_the_pytest_of_the_image(
    version: str, tmp_path: Path, place: Path, base_image: str
) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("\n".join([f"pytest=={version}", *OWN_PYTEST[version]]), encoding="utf-8")
    try:
        wheels = wheelhouse(requirements, python="3.11")
    except SetupError as error:
        pytest.fail(str(error))

    def write(side: Path) -> None:
        sample.write(side, image=base_image)
        context = side / "image"
        shutil.copytree(wheels, context / "wheels")
        (context / "Dockerfile").write_text(_DOCKERFILE.format(base=base_image), encoding="utf-8")
        file = side / "pyproject.toml"
        text = file.read_text(encoding="utf-8")
        file.write_text(
            text.replace(
                f'image = "{base_image}"', 'build = { context = "image" }\npython = "/venv/bin/python"'
            ),
            encoding="utf-8",
        )

    twin = twins.Twin.of(place, write)
    found = differences_without_subtests(twin)
    assert not found, "\n".join(compare.table(found, "local", version))
    _, right = twin.run("-k", "pass")
    assert f"pytest-{version}" in right.raw


BROUGHT = ("3.8", "3.10", "3.12")
_LEFT_OUT = shutil.ignore_patterns(
    "__pycache__", "*.a", "config-*", "site-packages", "test", "tests", "idlelib", "tkinter"
)
_WITH_A_PYTHON = """\
FROM {base}
COPY python {prefix}
ENV PATH={prefix}/bin:$PATH
"""


def _self_contained(version: str) -> Path | None:
    """The prefix of a Python of this version that can be copied as it is, below pyenv's folder or on ``PATH``."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = shutil.which(f"python{version}")
    for python in (
        *sorted(pyenv.glob(f"versions/{version}.*/bin/python3")),
        *([Path(found)] if found else []),
    ):
        ended = subprocess.run(
            [python, "-c", "import sys; print(sys.base_prefix, '%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        prefix, _, its_version = ended.stdout.strip().rpartition(" ")
        if its_version == version and prefix not in ("", "/", "/usr"):
            return Path(prefix)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("version", BROUGHT)
def test_same_outcomes_with_a_python_of_this_machine(version: str, place: Path, base_image: str) -> None:
    """Versions for which Debian has no release: one that this machine has is copied into the image."""
    prefix = _self_contained(version)
    if prefix is None:  # nothing that the set-up could obtain, so not a failure in CI either
        pytest.skip(f"no Python {version} on this machine that could be copied into an image")

    def write(side: Path) -> None:
        sample.write(side, image=base_image)
        context = side / "image"
        for name in ("bin", "lib"):
            shutil.copytree(prefix / name, context / "python" / name, symlinks=True, ignore=_LEFT_OUT)
        text = _WITH_A_PYTHON.format(base=base_image, prefix=prefix)
        (context / "Dockerfile").write_text(text, encoding="utf-8")
        file = side / "pyproject.toml"
        text = file.read_text(encoding="utf-8")
        file.write_text(
            text.replace(f'image = "{base_image}"', 'build = { context = "image" }'), encoding="utf-8"
        )

    twin = twins.Twin.of(place, write)
    found = differences_without_subtests(twin)
    assert not found, "\n".join(compare.table(found, "local", version))
    _, right = twin.run("-k", "pass")
    assert f"Python {version}." in right.raw
