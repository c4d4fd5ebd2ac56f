"""A worker's own streams: what standard input is, and a debugger's words in order with the host's.

See :mod:`terminal` for whose turn it is.
"""

import fcntl
import os
import sys
from typing import Any, Dict, List, Optional

from . import wire
from .channel import Channel
from .supervisor import WorkerEnds

TERMINAL = "terminal"


class Streams:
    """The worker's side: gives it its streams, and keeps what a debugger shows in order with what the host shows.

    Args:
        asked: The option ``input`` of :class:`~.wire.Init`.
    """

    def __init__(self, channel: Channel, ends: WorkerEnds, asked: Optional[Dict[str, Any]]) -> None:
        self._channel = channel
        self._asked = asked
        self._terminal = ends.terminal
        self._live = self._named = False
        self.active = False
        """A debugger has been entered in this test."""
        self._term = str((asked or {}).get("term") or "") if ends.terminal >= 0 else ""
        here: List[int] = list((asked or {}).get(TERMINAL) or ()) if ends.terminal >= 0 else []
        for stream in here:
            os.dup2(ends.terminal, stream)
        if here:
            channel.terminal = ends.terminal
            channel.mark = ends.mark
        else:
            self._do_without(ends)
        os.close(ends.stdin)

    def _do_without(self, ends: WorkerEnds) -> None:
        if ends.terminal >= 0:
            import termios

            # As locally without a terminal: /dev/tty cannot be opened.
            fcntl.ioctl(ends.terminal, termios.TIOCNOTTY)
            os.close(ends.terminal)
            self._terminal = -1
        if self._asked is not None and not self._asked.get(TERMINAL):
            os.dup2(ends.stdin, 0)

    @property
    def has_terminal(self) -> bool:
        return self._terminal >= 0

    @property
    def readable(self) -> bool:
        """Whether there is standard input at all."""
        return self._asked is not None

    @property
    def _is_pipe(self) -> bool:
        return self._asked is not None and not self._asked.get(TERMINAL)

    def uncaptured(self) -> None:
        """Tests may read as they like: of a pipe, ask for its first piece."""
        if self._is_pipe:
            self._channel.send(wire.Listen(True))
        self._name_terminal()

    def _name_terminal(self) -> bool:
        """Tell what kind of terminal it is; False if the image, the stage or a test has done so."""
        if not self._term or "TERM" in os.environ:
            return False
        os.environ["TERM"] = self._term
        return True

    def enter(self) -> None:
        """A debugger is about to show itself: what came before it is shown before."""
        if self.active or not self._channel.ours:
            return
        if self._asked is not None and self._asked.get(TERMINAL) and not self.has_terminal:
            sys.stderr.write(
                "pytest-envpar: there is no terminal in this container: standard input is empty\n"
            )
        self.active = True
        self._live, self._channel.live = self._channel.live, True
        if self._is_pipe:
            self._channel.send(wire.Listen(True))
        self._named = self._name_terminal()
        self.flush()

    def flush(self) -> None:
        """Everything that was said and printed until now is shown before what follows."""
        flush_output()
        self._channel.flush(sync=True, always=True)

    def leave(self) -> None:
        """The test is over, or the session: the terminal is the host's again."""
        if not self._channel.ours:
            return
        if self.active:
            self.active = False
            if self._named and os.environ.get("TERM") == self._term:
                del os.environ["TERM"]
            self.flush()
            self._channel.live = self._live
        if self._in_front():
            flush_output()
            os.tcsetpgrp(self._terminal, os.getpgid(os.getppid()))
            self._channel.send(wire.Listen(False))
            self._channel.flush(sync=True)

    def _in_front(self) -> bool:
        try:
            return self._terminal >= 0 and os.tcgetpgrp(self._terminal) == os.getpgrp()
        except OSError:
            return False


def flush_output() -> None:
    """Python's own buffers of what was printed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001 - a test may have put anything there, also nothing
            pass


def print_by_lines() -> None:
    """As on the host's terminal: inside it is a pipe, where Python would keep what is printed until a block is full."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.reconfigure(line_buffering=True)
