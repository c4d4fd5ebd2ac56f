"""Projects with several stages, run by real host processes on Docker."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from rig.engines import DOCKER, left
from rig.hosts import FINDABLE, pytest_command
from rig.projects import Folder
from rig.runs import Ran, Run, assert_no_error_of_ours, begin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_envpar.engine.api import Engine

IMAGES = {"dev": "envpar-base:py3.13", "qa": "envpar-base:py3.11", "old": "envpar-base:py3.9"}
TIMEOUT_S = 180.0


class Project(Folder):
    """A project in a folder of its own, with stages of the test images and without a network."""

    def __init__(self, root: Path, engine: Engine, environ: Mapping[str, str]) -> None:
        super().__init__(root, environ)
        self.engine = engine

    def configure(self, *stages: str, top: str = "", **more: str) -> None:
        """Write the configuration.

        Args:
            stages: Names of ``IMAGES``.
            top: Lines before the first table.
            more: Lines for the table of a stage, or a whole table for a stage of another name.
        """
        text = f'engine = "{DOCKER}"\n{top}\n'
        for name in (*stages, *(name for name in more if name not in stages)):
            image = f'image = "{IMAGES[name]}"\nnetwork = "none"\n' if name in stages else ""
            text += f"[stages.{name}]\n{image}{more.get(name, '')}\n"
        self.write("envpar.toml", text)

    def start(self, *args: str, host: Sequence[str] = (sys.executable,), **environ: str) -> Run:
        """Start pytest with these arguments."""
        command = pytest_command(*args, python=tuple(host))
        return begin(command, self.root, {**self.environ, **FINDABLE, **environ})

    def end(self, run: Run, *, may_trace: bool = False) -> Ran:
        """Wait for a run; no error of ours may be a traceback, and nothing be left on the engine."""
        result = run.end(TIMEOUT_S)
        if not may_trace:
            assert_no_error_of_ours(result.text)
        assert left(self.engine, self.root) == [], result.text[-8000:]
        return result

    def run(
        self, *args: str, host: Sequence[str] = (sys.executable,), may_trace: bool = False, **environ: str
    ) -> Ran:
        """Run pytest with these arguments to its end."""
        return self.end(self.start(*args, host=host, **environ), may_trace=may_trace)

    def junit(self, name: str = "junit.xml") -> dict[str, ET.Element]:
        """The test cases of a JUnit file by class and name."""
        cases = ET.parse(self.root / name).getroot().iter("testcase")
        return {f"{case.get('classname')}.{case.get('name')}": case for case in cases}
