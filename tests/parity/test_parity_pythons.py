"""Other Pythons and other pytests inside: the same outcome for each test as in a local run."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import compare
import pytest
import sample
import twin as twins

if TYPE_CHECKING:
    from collections.abc import Callable

sys.path.append(str(Path(__file__).parents[2] / "fixtures"))
from provision import SetupError
from wheelhouse import wheelhouse

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


@pytest.mark.parametrize("name", ["py3.9", "py3.13"])
def test_same_outcomes_with_another_python(name: str, tmp_path: Path, image: Callable[[str], str]) -> None:
    reference = image(f"envpar-base:{name}")
    twin = twins.Twin.of(tmp_path, lambda side: sample.write(side, image=reference))
    found = differences_without_subtests(twin)
    assert not found, "\n".join(compare.table(found, "local", name))


@pytest.mark.slow
@pytest.mark.parametrize("version", list(OWN_PYTEST))
def test_same_outcomes_with_the_pytest_of_the_image(version: str, tmp_path: Path, base_image: str) -> None:
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

    twin = twins.Twin.of(tmp_path / "twin", write)
    found = differences_without_subtests(twin)
    assert not found, "\n".join(compare.table(found, "local", version))
    _, right = twin.run("-k", "pass")
    assert f"pytest-{version}" in right.raw
