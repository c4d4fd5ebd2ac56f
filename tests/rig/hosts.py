"""The environment of host processes: they have nothing of the tests' own pytest, nor of CI's."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2]
INSTALLED = any(point.name == "envpar" for point in importlib.metadata.entry_points(group="pytest11"))
FINDABLE = {} if INSTALLED else {"PYTHONPATH": str(SOURCE)}
"""Variables with which a host finds the package of a checkout that is not installed."""
_UNWANTED = (
    "PYTEST",
    "PYTHON",
    "TOX_",
    "COV",
    "DOCKER_",
    "CONTAINER_",
    "PY_COLORS",
    "FORCE_COLOR",
    "ENVPAR_",
)


def clean_environ(cache: Path, *unwanted: str) -> dict[str, str]:
    """This process's environment for hosts, with a cache folder of theirs.

    CI's is not for them: there a stage has to be locked before it runs.

    Args:
        unwanted: Beginnings of more names to leave out.
    """
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith((*_UNWANTED, *unwanted)) and name != "CI"
    }
    return {**environ, "XDG_CACHE_HOME": str(cache), "NO_COLOR": "1"}


def pytest_command(*args: str, python: tuple[str, ...] = (sys.executable,)) -> list[str]:
    """The command that runs pytest with the plugin."""
    return [*python, "-m", "pytest", *(() if INSTALLED else ("-p", "pytest_envpar.plugin")), *args]
