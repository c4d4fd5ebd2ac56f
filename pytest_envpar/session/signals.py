"""Ctrl-C, SIGTERM and SIGHUP of a stage run.

A signal must not tear the conversation with the worker in the middle of a message, and it must not leave a container
behind. So while tests run a signal is only noted, and the run looks at its notes whenever it waits.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any, Literal

INTERRUPTED = 2
PATIENCE_S = 5.0
"""After this long a further signal ends the process at once, whatever is still to be removed."""

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def exit_status(number: int) -> int:
    """What a run that a signal has ended returns: pytest's own for Ctrl-C, the shell's for the others."""
    return INTERRUPTED if number == signal.SIGINT else 128 + number


class Signals:
    """Handlers of one run. Changes with ``phase`` and with every signal.

    Args:
        what: What is being started, for the message of a run that never began.
    """

    def __init__(self, what: str) -> None:
        self.phase: Literal["starting", "running", "ending"] = "starting"
        self._what = what
        self._previous: dict[int, Any] = {}
        self._first: tuple[int, float] | None = None

    def take(self) -> None:
        """Install the handlers, where nobody else has done so."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _NUMBERS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                self._previous[number] = signal.signal(number, self._handle)

    def restore(self) -> None:
        """Put back what was there. Safe to repeat."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def noted(self) -> int | None:
        """The first signal, if there was one."""
        return None if self._first is None else self._first[0]

    def _handle(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = number, now
            if self.phase == "starting":
                name = signal.Signals(number).name
                _say(f"{name}: {self._what} was not started")
                # Unlike KeyboardInterrupt it passes through pytest without a traceback.
                raise SystemExit(exit_status(number))
        elif now - self._first[1] > PATIENCE_S:
            _say("ended at once; what is left on the engine is removed by the next run or `envpar prune`")
            os._exit(exit_status(number))
        elif self.phase == "running" and number == signal.SIGINT:
            # A hook on this side keeps the run from looking at its notes.
            raise KeyboardInterrupt


def _say(line: str) -> None:
    sys.stderr.write(f"\nenvpar: {line}\n")
    sys.stderr.flush()
