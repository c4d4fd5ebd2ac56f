"""Small projects whose suites run inside stages of a real engine, by a real host process."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from rig.engines import DOCKER, left
from rig.hosts import FINDABLE, pytest_command
from rig.projects import Folder
from rig.runs import Ran, assert_no_error_of_ours, begin

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_envpar.engine.api import Engine

TIMEOUT_S = 120.0


class Project(Folder):
    """A project in a folder of its own, configured by ``envpar.toml``."""

    def __init__(self, root: Path, image: str, engine: Engine | None, environ: Mapping[str, str]) -> None:
        super().__init__(root, environ)
        self.image = image
        self._engine = engine

    @property
    def engine(self) -> Engine:
        """The engine that its stages run on."""
        assert self._engine is not None
        return self._engine

    def stage(self, *lines: str, top: str = "", name: str = "qa") -> None:
        """Write the configuration: one stage of the base image without a network, with ``lines`` added."""
        given = "\n".join(lines)
        text = f'engine = "{DOCKER}"\n{top}\n[stages.{name}]\n'
        if not re.search(r"^(image|build|extends)\b", given, re.MULTILINE):
            text += f'image = "{self.image}"\n'
        if not re.search(r"^network\b", given, re.MULTILINE):
            text += 'network = "none"\n'
        self.write("envpar.toml", text + given + "\n")

    def run(
        self,
        *args: str,
        stage: str | None = "qa",
        cwd: Path | None = None,
        command: str = "pytest",
        may_trace: bool = False,
        alone: bool = True,
        **environ: str,
    ) -> Ran:
        """Run pytest with ``--env=qa`` to its end; no error of ours may be a traceback, and nothing be left.

        Args:
            alone: Whether no other run of the project is under way, whose containers would look like left ones.
        """
        host = pytest_command() if command == "pytest" else [sys.executable, "-m", "pytest_envpar", "run"]
        asked = [f"--env={stage}"] if stage else []
        started = begin([*host, *asked, *args], cwd or self.root, {**self.environ, **FINDABLE, **environ})
        result = started.end(TIMEOUT_S)
        if not may_trace:
            assert_no_error_of_ours(result.text)
        remaining = [] if self._engine is None else left(self._engine, self.root)
        assert remaining == [] or not alone, f"{remaining}\n{result.text}"
        return result

    def snapshot(self) -> dict[str, tuple[int, int, bytes]]:
        """Every file of the project: mode, time and content. Left out is what a run is to write: pytest's cache on the
        host and the lock file."""
        return {
            str(path.relative_to(self.root)): (
                path.lstat().st_mode,
                path.lstat().st_mtime_ns if path.is_file() else 0,
                path.read_bytes() if path.is_file() else b"",
            )
            for path in sorted(self.root.rglob("*"))
            if not {".pytest_cache", "envpar.lock"}.intersection(path.parts)
        }

    def suite(self, code: str, *args: str, stage: str = "qa") -> Ran:
        """Write ``code`` as the only test file, run it, and return the result."""
        self.write("test_it.py", code)
        return self.run(*args, stage=stage)
