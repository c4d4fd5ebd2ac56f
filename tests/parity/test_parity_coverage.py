"""Suites of other projects have the same coverage inside, line for line and branch for branch, as in a local run."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from rig.needs import module

from . import twin as twins
from .suites import NEEDS_FOLDER, SUITES, CannotFetchError, fetch

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        sys.version_info[:2] != (3, 11), reason="the local run needs the Python of the image, 3.11"
    ),
]


def _lines(side: Path) -> dict[str, Any]:
    """What the JSON report says of each file."""
    wanted = ("executed_lines", "missing_lines", "executed_branches", "missing_branches", "summary")
    files = json.loads((side / "coverage.json").read_text(encoding="utf-8"))["files"]
    return {name: {key: each[key] for key in wanted} for name, each in files.items()}


def _table(text: str) -> list[str]:
    """The report of the terminal, without the line that names the Python and what is ours."""
    lines = text.splitlines()
    (first,) = (number for number, line in enumerate(lines) if " tests coverage " in line)
    (last,) = (number for number, line in enumerate(lines) if line.startswith("TOTAL "))
    return [line for line in lines[first : last + 1] if "platform linux" not in line]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("cachetools", ()),
        pytest.param("click", (), marks=pytest.mark.slow),
        pytest.param("click", ("-p", "xdist", "-n2"), marks=pytest.mark.slow, id="click-xdist"),
        pytest.param("more-itertools", (), marks=pytest.mark.full),
    ],
)
def test_same_lines_and_branches(name: str, more: tuple[str, ...], base_image: str, tmp_path: Path) -> None:
    module("pytest_cov")
    base = os.environ.get("XDG_CACHE_HOME")
    cache = (Path(base) if base else Path.home() / ".cache") / "pytest-envpar"
    (suite,) = (suite for suite in SUITES if suite.name == name)
    try:
        sources = fetch(suite, cache)
    except CannotFetchError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    folders = ("src", NEEDS_FOLDER) if (sources / "src").is_dir() else (".", NEEDS_FOLDER)
    package = f"{folders[0]}/{name.replace('-', '_')}"

    def write(side: Path) -> None:
        shutil.copytree(sources, side, dirs_exist_ok=True, symlinks=True)
        path = ":".join(str(side / folder) for folder in folders)
        (side / "envpar.toml").write_text(
            f'[stages.dev]\nimage = "{base_image}"\nnetwork = "none"\nenv = {{ PYTHONPATH = "{path}" }}\n',
            encoding="utf-8",
        )

    twin = twins.Twin.of(tmp_path, write, path=folders)
    reports = ("--cov-branch", "--cov-report=term-missing", "--cov-report=json")
    words = ("-q", "-p", "no:cacheprovider", "-p", "pytest_cov", f"--cov={package}", *reports)
    left, right = twin.run(*words, *more, *suite.arguments)
    assert left.code == right.code == 0, right.raw[-3000:] + right.err
    here, there = map(_lines, twin.sides)
    assert sum(len(each["executed_branches"]) for each in here.values()) > 50, left.raw
    assert there == here
    assert _table(right.raw) == _table(left.raw)
