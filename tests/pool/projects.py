"""Projects whose stages run on a pool of engines."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING

from rig.engines import left
from rig.hosts import FINDABLE, pytest_command
from rig.projects import Folder
from rig.runs import Ran, Run, assert_no_error_of_ours, begin

from pytest_envpar.errors import EnvparError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_envpar.engine.api import Engine

    from .daemons import SecondDocker

IMAGES = {"dev": "envpar-base:py3.13", "qa": "envpar-base:py3.11"}
TIMEOUT_S = 180.0


class NearProject(Folder):
    """A project whose stages run on the Docker of this machine, and on what else a test names."""

    def __init__(self, root: Path, near: Engine, environ: Mapping[str, str]) -> None:
        super().__init__(root, environ)
        self.near = near

    def configure(self, *urls: str, stages: tuple[str, ...] = ("qa",), more: str = "") -> None:
        """Write the configuration with these engines."""
        text = f"engine = {json.dumps(list(urls) or 'auto')}\n{more}\n"
        for name in stages:
            text += f'[stages.{name}]\nimage = "{IMAGES[name]}"\nnetwork = "none"\n'
        self.write("envpar.toml", text)

    def start(self, *args: str, module: str = "pytest") -> Run:
        """Start pytest, or another module, with these arguments."""
        command = pytest_command(*args) if module == "pytest" else [sys.executable, "-m", module, *args]
        return begin(command, self.root, {**self.environ, **FINDABLE})

    def end(self, run: Run) -> Ran:
        """Wait for a run; no error of ours may be a traceback, and nothing be left on an engine that is there."""
        result = run.end(TIMEOUT_S)
        assert_no_error_of_ours(result.text)
        assert left(self.near, self.root) == [], result.text[-8000:]
        return result

    def run(self, *args: str, module: str = "pytest") -> Ran:
        """Run pytest, or another module, with these arguments to its end."""
        return self.end(self.start(*args, module=module))


class Project(NearProject):
    """A project whose stages run on a pool of the Docker of this machine and a second one."""

    def __init__(
        self, root: Path, near: Engine, second: SecondDocker, urls: list[str], environ: Mapping[str, str]
    ) -> None:
        super().__init__(root, near, environ)
        self.second = second
        self.urls = urls

    def end(self, run: Run) -> Ran:
        """The same; on the second one nothing is left either, if it is there."""
        result = super().end(run)
        with contextlib.suppress(EnvparError), contextlib.closing(self.second.connect()) as far:
            assert left(far, self.root) == [], result.text[-8000:]
        return result
