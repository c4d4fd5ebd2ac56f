"""A user at a terminal: a pseudo-terminal whose other end is held by a test, which reads, waits and types."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LIMIT_S = 60.0
PROMPT = r"\(Pdb\) "


@dataclasses.dataclass(frozen=True)
class Session:
    """What the user saw, without colours, and whether the terminal was left as it was found."""

    code: int
    text: str
    restored: bool

    @property
    def lines(self) -> list[str]:
        """The lines on the screen."""
        return self.text.splitlines()


class Terminal:
    """A command that runs at a terminal of its own, in a session of its own.

    Args:
        command: What is run.
        folder: The working directory.
        environ: The environment, but for ``TERM``.
        streams: Which of 0, 1 and 2 are the terminal; the others are ``other``.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        *,
        streams: Sequence[int] = (0, 1, 2),
        other: int = subprocess.DEVNULL,
    ) -> None:
        self.master, self._slave = pty.openpty()
        self.resize(30, 100)
        self._before = termios.tcgetattr(self._slave)
        given: list[Any] = [self._slave if stream in streams else other for stream in (0, 1, 2)]
        slave = self._slave
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environ, "TERM": "xterm"},
            stdin=given[0],
            stdout=given[1],
            stderr=given[2],
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no other thread here
        )
        self._seen = bytearray()
        self._at = 0

    def resize(self, rows: int, columns: int) -> None:
        """Another size of the window."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, pattern: str, limit_s: float = LIMIT_S) -> str:
        """Wait until ``pattern`` is seen behind what was waited for before; returns what was seen up to it."""
        deadline = time.monotonic() + limit_s
        while True:
            new = _plain(bytes(self._seen))[self._at :]
            found = re.search(pattern, new, re.DOTALL)
            if found:
                self._at += found.end()
                return new[: found.end()]
            assert self._read(deadline), f"no {pattern!r}, exit {self.process.poll()}, in:\n{new}"

    def type(self, keys: str) -> None:
        """Press keys; Enter is ``\\r``."""
        os.write(self.master, keys.encode())

    def answer(self, *steps: str) -> None:
        """At each of as many prompts of the debugger, type a line."""
        for step in steps:
            self.until(PROMPT)
            self.type(step + "\r")

    def answer_now(self, first: str, *more: str) -> None:
        """Type a line at the prompt that is there, and more at the next ones."""
        self.type(first + "\r")
        self.answer(*more)

    def end(self, limit_s: float = LIMIT_S) -> Session:
        """Read on to the end of the command."""
        deadline = time.monotonic() + limit_s
        while self.process.poll() is None or select.select([self.master], [], [], 0)[0]:
            assert time.monotonic() < deadline, f"does not end:\n{_plain(bytes(self._seen))}"
            if select.select([self.master], [], [], 0.05)[0]:
                self._seen += os.read(self.master, 1 << 16)
        restored = termios.tcgetattr(self._slave) == self._before
        return Session(self.process.returncode, _plain(bytes(self._seen)), restored)

    def close(self) -> None:
        """End what is left, and let go of the terminal."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for descriptor in (self.master, self._slave):
            os.close(descriptor)

    def _read(self, deadline: float) -> bool:
        """Wait for more; False if there is none."""
        while time.monotonic() < deadline:
            over = self.process.poll() is not None
            if select.select([self.master], [], [], 0.0 if over else 0.2)[0]:
                self._seen += os.read(self.master, 1 << 16)
                return True
            if over:
                return False
        return False


def _plain(data: bytes) -> str:
    """Without colours and the like, and with the line ends of a file."""
    text = data.decode(errors="replace").replace("\r\n", "\n")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
