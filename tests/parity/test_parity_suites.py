"""Suites of other projects have the same outcome inside, test for test, as in a local run with the same Python."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import compare
import pytest
import twin as twins
from suites import NEEDS_FOLDER, SUITES, CannotFetchError, Suite, fetch

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.version_info[:2] != (3, 11), reason="the local run needs the Python of the image, 3.11"
    ),
]


@pytest.fixture(scope="module")
def cache() -> Path:
    """Where downloads are kept: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pytest-envpar"


def _sources(suite: Suite, cache: Path) -> Path:
    try:
        return fetch(suite, cache)
    except CannotFetchError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "suite",
    [pytest.param(suite, id=suite.name, marks=() if suite.daily else pytest.mark.full) for suite in SUITES],
)
def test_same_outcomes(suite: Suite, cache: Path, base_image: str, tmp_path: Path) -> None:
    sources = _sources(suite, cache)
    folders = ("src", NEEDS_FOLDER) if (sources / "src").is_dir() else (".", NEEDS_FOLDER)

    def write(side: Path) -> None:
        shutil.copytree(sources, side, dirs_exist_ok=True, symlinks=True)
        path = ":".join(str(side / folder) for folder in folders)
        (side / "envpar.toml").write_text(
            f'[stages.dev]\nimage = "{base_image}"\nnetwork = "none"\nenv = {{ PYTHONPATH = "{path}" }}\n',
            encoding="utf-8",
        )

    twin = twins.Twin.of(tmp_path, write, path=folders)
    left, right = twin.run("-q", "-p", "no:cacheprovider", "--junitxml=result.xml", *suite.arguments)
    here, there = (compare.outcomes(side / "result.xml") for side in twin.sides)
    assert len(here) > 20, left.raw
    found = compare.differences(here, there)
    assert not found, "\n".join(compare.table(found, "local", "stage"))
    assert left.code == right.code, right.raw[-3000:]


@pytest.mark.parametrize(
    "suite", [suite for suite in SUITES if suite.name == "cachetools"], ids=lambda suite: suite.name
)
def test_same_outcomes_with_workers(suite: Suite, cache: Path, base_image: str, tmp_path: Path) -> None:
    """Spread over containers by pytest-xdist."""
    pytest.importorskip("xdist")
    sources = _sources(suite, cache)

    def write(side: Path) -> None:
        shutil.copytree(sources, side, dirs_exist_ok=True, symlinks=True)
        stage = f'[stages.dev]\nimage = "{base_image}"\nnetwork = "none"\n'
        stage += f'env = {{ PYTHONPATH = "{side / "src"}" }}\n'
        (side / "envpar.toml").write_text(stage, encoding="utf-8")

    twin = twins.Twin.of(tmp_path, write, path=("src",))
    many = ("-p", "xdist", "-n2")
    left, right = twin.run("-q", "-p", "no:cacheprovider", "--junitxml=result.xml", *many, *suite.arguments)
    here, there = (compare.outcomes(side / "result.xml") for side in twin.sides)
    assert len(here) > 20, left.raw
    assert not compare.differences(here, there)
    assert left.code == right.code == 0, right.raw[-3000:]
