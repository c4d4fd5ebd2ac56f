"""Host processes, and what the user sees of them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import IO

TRACEBACK = "Traceback (most recent call last)"
_OURS = (TRACEBACK, "INTERNALERROR", "pytest_envpar/session", "pytest_envpar/worker")
_GRACE_S = 20.0


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


class Run:
    """A host process that is under way; its output is collected as it comes, so that it never waits to be read."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self._out, self._err = bytearray(), bytearray()
        self._open = 2
        self._news = threading.Condition()
        for stream, seen in ((process.stdout, self._out), (process.stderr, self._err)):
            threading.Thread(target=self._collect, args=(stream, seen), daemon=True).start()

    def _collect(self, stream: IO[bytes], seen: bytearray) -> None:
        with stream:
            while data := os.read(stream.fileno(), 1 << 16):
                with self._news:
                    seen += data
                    self._news.notify_all()
        with self._news:
            self._open -= 1
            self._news.notify_all()

    @property
    def out(self) -> str:
        """What it has written to its standard output so far."""
        return _text(self._out)

    @property
    def err(self) -> str:
        """What it has written to its standard error so far."""
        return _text(self._err)

    def wait_for(self, *parts: str, timeout_s: float = 120.0) -> None:
        """Wait until its output holds all of ``parts``."""
        with self._news:
            self._news.wait_for(lambda: not self._open or all(part in self.out for part in parts), timeout_s)
            out, err = self.out, self.err
        assert all(part in out for part in parts), f"not all of {parts} in: {out}\n--- stderr\n{err}"

    def end(self, timeout_s: float) -> Ran:
        """Wait for its end, and of all that writes to its streams; what goes on after ``timeout_s`` is stopped."""
        try:
            with self._news:
                over = self._news.wait_for(lambda: not self._open, timeout_s)
            code = self.process.wait(_GRACE_S) if over else None
        except BaseException:
            self.stop()
            raise
        if code is None:
            self.stop()
            pytest.fail(f"the run did not end\n{self.out}\n--- stderr\n{self.err}")
        _under_way.discard(self)
        return Ran(code, self.out, self.err)

    def stop(self) -> None:
        """End it: as Ctrl-C does, so that it removes its containers, then by force."""
        _under_way.discard(self)
        for number in (signal.SIGINT, signal.SIGKILL):
            # The group is gone with its last process.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_GRACE_S)
        with self._news:
            self._news.wait_for(lambda: not self._open, _GRACE_S)


_under_way: set[Run] = set()


def begin(command: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> Run:
    """Start a host process in a session of its own; the end of the test stops it where the test did not see its end."""
    run = Run(
        subprocess.Popen(
            command,
            cwd=cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    )
    _under_way.add(run)
    return run


def stop_all() -> None:
    """Stop the host processes that are still under way."""
    for run in tuple(_under_way):
        run.stop()


def _text(data: bytearray) -> str:
    """Output as text with the newlines of a text file."""
    return data.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
