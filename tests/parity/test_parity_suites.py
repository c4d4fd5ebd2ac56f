"""Suites of other projects have the same outcome inside, test for test, as in a local run with the same Python."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from rig.needs import module

from . import compare
from . import twin as twins
from .suites import NEEDS_FOLDER, SUITES, CannotFetchError, Suite, fetch

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        sys.version_info[:2] != (3, 11), reason="the local run needs the Python of the image, 3.11"
    ),
]


DAILY = [suite for suite in SUITES if suite.daily]
LARGE = [pytest.param(suite, id=suite.name, marks=pytest.mark.full) for suite in SUITES if not suite.daily]
LARGE_LIMIT_S = 900.0
QUICK = "cachetools"


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


def _twin(suite: Suite, cache: Path, image: str, folder: Path) -> twins.Twin:
    """The suite's project, twice; in the stage it has ``image``."""
    sources = _sources(suite, cache)
    folders = ("src", NEEDS_FOLDER) if (sources / "src").is_dir() else (".", NEEDS_FOLDER)

    def write(side: Path) -> None:
        shutil.copytree(sources, side, dirs_exist_ok=True, symlinks=True)
        path = ":".join(str(side / folder) for folder in folders)
        (side / "envpar.toml").write_text(
            f'[stages.dev]\nimage = "{image}"\nnetwork = "none"\nenv = {{ PYTHONPATH = "{path}" }}\n',
            encoding="utf-8",
        )

    limit_s = twins.LIMIT_S if suite.daily else LARGE_LIMIT_S
    return twins.Twin.of(folder, write, path=folders, limit_s=limit_s)


def _assert_same(twin: twins.Twin, suite: Suite, *stage_only: str) -> None:
    arguments = ("-q", "-p", "no:cacheprovider", "--junitxml=result.xml", *suite.arguments)
    left, right = twin.run(*arguments, stage_only=stage_only)
    here, there = (compare.outcomes(side / "result.xml") for side in twin.sides)
    assert len(here) > 20, left.raw
    found = compare.differences(here, there)
    assert not found, "\n".join(compare.table(found, "local", "stage"))
    assert (left.code, right.code) == (0, 0), right.raw[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("suite", [*(pytest.param(each, id=each.name) for each in DAILY), *LARGE])
def test_same_outcomes(suite: Suite, cache: Path, base_image: str, tmp_path: Path) -> None:
    _assert_same(_twin(suite, cache, base_image, tmp_path), suite)


@pytest.mark.parametrize(
    "suite",
    [
        *(
            pytest.param(each, id=each.name, marks=() if each.name == QUICK else pytest.mark.slow)
            for each in DAILY
        ),
        *LARGE,
    ],
)
def test_same_outcomes_with_workers(suite: Suite, cache: Path, base_image: str, tmp_path: Path) -> None:
    """Spread over two containers by pytest-xdist, against the local run in one process."""
    module("xdist")
    _assert_same(_twin(suite, cache, base_image, tmp_path), suite, "-p", "xdist", "-n2")
