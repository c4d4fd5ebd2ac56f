"""A project whose stage has plugins of others in its image."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
from typing import TYPE_CHECKING

from rig.hosts import INSTALLED, SOURCE, pytest_command
from rig.projects import Folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TIMEOUT_S = 180.0


@dataclasses.dataclass(frozen=True)
class Ran:
    """How a run ended."""

    code: int
    text: str

    @property
    def order(self) -> list[str]:
        """Names of the tests in the order in which they were shown, each once."""
        return list(dict.fromkeys(re.findall(r"^\S+::(\w+) ", self.text, re.MULTILINE)))


class Project(Folder):
    """The stages ``qa``, which has the plugins, and ``bare``, which has none.

    Args:
        plugins: A folder for ``PYTHONPATH`` that has them for the host.
    """

    def __init__(self, root: Path, plugins: Path, environ: Mapping[str, str]) -> None:
        super().__init__(root, environ)
        self.plugins = plugins

    def run(self, *args: str, stage: str = "qa", on_host: bool) -> Ran:
        """Run pytest in a stage, with the plugins on the host, too, or without."""
        paths = [*([str(self.plugins)] if on_host else []), *([] if INSTALLED else [str(SOURCE)])]
        done = subprocess.run(
            pytest_command("-p", "no:cacheprovider", f"--env={stage}", *args),
            cwd=self.root,
            env={**self.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert "INTERNALERROR" not in done.stdout, done.stdout
        return Ran(done.returncode, done.stdout)
