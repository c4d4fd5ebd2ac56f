"""Suites of other projects that clean up after themselves leave nothing behind by ``--env-pollution``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .suites import NEEDS_FOLDER, SUITES, CannotFetchError, Suite, fetch

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.mark.parametrize(
    "suite",
    [suite for suite in SUITES if suite.name in ("iniconfig", "cachetools", "pluggy", "itsdangerous")],
    ids=lambda suite: suite.name,
)
def test_nothing_is_left(suite: Suite, base_image: str, tmp_path: Path) -> None:
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        sources = fetch(suite, (Path(base) if base else Path.home() / ".cache") / "pytest-envpar")
    except CannotFetchError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    root = tmp_path / "project"
    shutil.copytree(sources, root, symlinks=True)
    folders = ("src" if (sources / "src").is_dir() else ".", NEEDS_FOLDER)
    path = ":".join(str(root / folder) for folder in folders)
    (root / "envpar.toml").write_text(
        f'[stages.dev]\nimage = "{base_image}"\nnetwork = "none"\nenv = {{ PYTHONPATH = "{path}" }}\n',
        encoding="utf-8",
    )
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTEST") and name != "CI"
    }
    command = [sys.executable, "-m", "pytest", "-q", "--env=dev", "--env-pollution", *suite.arguments]
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "no test left anything on the file system\n" in done.stdout, done.stdout[-3000:]
