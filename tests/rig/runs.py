"""Host processes, and what the user sees of them."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TRACEBACK = "Traceback (most recent call last)"
_OURS = (TRACEBACK, "INTERNALERROR", "pytest_envpar/session", "pytest_envpar/worker")


def assert_no_error_of_ours(text: str) -> None:
    """No error of ours is shown as a traceback."""
    for mark in _OURS:
        assert mark not in text, text[-8000:]


@dataclasses.dataclass(frozen=True)
class Ran:
    """What the user sees of one run."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All of it, for messages."""
        return f"exit {self.code}\n{self.out}\n--- stderr\n{self.err}"

    @property
    def line(self) -> str:
        """The closing line without its frame and time."""
        last = self.out.strip().splitlines()[-1:]
        return re.sub(r" in [\d.]+s.*", "", last[0].strip("= ")) if last else ""

    def section(self, title: str) -> list[str]:
        """The lines below a section's title."""
        lines = self.out.splitlines()
        starts = [number for number, line in enumerate(lines) if re.fullmatch(rf"[=_]+ {title} [=_]+", line)]
        assert len(starts) == 1, self.text
        rest = lines[starts[0] + 1 :]
        ends = [number for number, line in enumerate(rest) if line.startswith("=====")]
        return rest[: ends[0]] if ends else rest

    def ok(self) -> Ran:
        """Assert that all passed, and return self."""
        assert self.code == 0, self.text
        return self

    def ended(self, code: int, line: str | None = None) -> Ran:
        """Assert exit status and closing line, and return self."""
        assert self.code == code, self.text[-6000:]
        assert line is None or self.line == line, self.text[-6000:]
        return self

    def refused(self, *shown: str, code: int = 4) -> Ran:
        """Assert that the run ended with a message of ours that has all of ``shown``, and return self."""
        assert self.code == code, self.text
        for part in shown:
            assert part in self.err, self.text
        return self

    def exits(self, code: int, *shown: str) -> Ran:
        """Assert the exit status and that every one of ``shown`` was printed, and return self."""
        assert self.code == code, self.text
        for part in shown:
            assert part in self.out + self.err, self.text
        assert TRACEBACK not in self.out + self.err, self.text
        return self


def begin(command: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a host process in a session of its own."""
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def read_until(process: subprocess.Popen[str], *parts: str) -> str:
    """Read the output of a host process line by line until it holds all of ``parts``, and return it."""
    assert process.stdout is not None
    assert process.stderr is not None
    seen = ""
    while not all(part in seen for part in parts):
        line = process.stdout.readline()
        assert line, seen + process.stderr.read()
        seen += line
    return seen


def finish(process: subprocess.Popen[str], timeout_s: float, seen: str = "") -> Ran:
    """Wait for a host process.

    Args:
        seen: What was read of its output already.
    """
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"the run did not end\n{seen}{out}\n{err}")
    return Ran(process.returncode, seen + out, err)
