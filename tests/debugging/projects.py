"""Projects that are debugged by a user at a terminal, in a stage and locally for comparison."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from rig.engines import left
from rig.hosts import FINDABLE, pytest_command
from rig.needs import base_image
from rig.projects import Folder

from .terminal import Session, Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_envpar.engine.api import Engine

OURS = ("INTERNALERROR", "pytest_envpar/session", "pytest_envpar/worker")
TIMEOUT_S = 180.0


class Project(Folder):
    """A project in a folder of its own with the stages ``qa`` and ``dev``."""

    def __init__(self, root: Path, engine: Engine, url: str, environ: Mapping[str, str]) -> None:
        super().__init__(root, environ)
        self.engine = engine
        self._terminals: list[Terminal] = []
        image = base_image(engine)
        stages = "".join(f'[stages.{name}]\nimage = "{image}"\nnetwork = "none"\n' for name in ("qa", "dev"))
        self.write("envpar.toml", f'engine = "{url}"\n{stages}')

    def _command(self, stage: str | None, args: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
        asked = [f"--env={stage}"] if stage else []
        return pytest_command("-p", "no:cacheprovider", *asked, *args), {**self.environ, **FINDABLE}

    def at_terminal(self, *args: str, stage: str | None = "qa", **more: object) -> Terminal:
        """Start pytest at a terminal."""
        command, environ = self._command(stage, args)
        made = Terminal(command, self.root, environ, **more)  # type: ignore[arg-type]
        self._terminals.append(made)
        return made

    def with_input(self, data: bytes | None, *args: str, stage: str | None = "qa") -> tuple[int, str]:
        """Run pytest with ``data`` on standard input, or none; returns exit status and output."""
        command, environ = self._command(stage, args)
        ended = subprocess.run(
            command,
            cwd=self.root,
            env=environ,
            stdin=subprocess.DEVNULL if data is None else None,
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
        )
        return ended.returncode, ended.stdout.decode(errors="replace")

    def clean(self, session: Session) -> Session:
        """Assert that nothing is left, neither on the engine nor in the terminal's settings."""
        assert session.restored, session.text
        for mark in OURS:
            assert mark not in session.text, session.text
        assert left(self.engine, self.root) == [], session.text
        return session

    def close(self) -> None:
        """End what a failed test left running."""
        for terminal in self._terminals:
            terminal.close()


def same(text: str) -> list[str]:
    """The lines of a run, without what differs between a local run and one in a stage."""
    kept = []
    for line in text.splitlines():
        if re.match(r"platform |plugins: |envpar: |hypothesis profile|collecting \d+ items|\s*$", line):
            continue
        short = re.sub(r"/\S*/(?=_pytest/|pluggy/|bdb\.py|pdb\.py|unittest/)", "", line)
        kept.append(re.sub(r"^=+ (.*) in [\d.]+s =+$", r"= \1 =", re.sub(r"0x[0-9a-f]+", "0x", short)))
    return kept
