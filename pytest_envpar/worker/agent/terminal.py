"""Standard input inside, and the terminal of a debugger.

Where the user sits at a terminal, the worker's streams are one of the container's own, made by the supervisor. The
worker is a *background* job of it, as one that a shell has put there, and so the kernel tells who reads: it stops a
background job that reads from its terminal, or wants it set up for reading, the supervisor sees that, makes the worker
the foreground job, lets it go on, and tells the host, which lends the user's terminal from then on. At the end of the
test the worker goes into the background again. So nothing that is typed is taken while nobody asks for it, and Ctrl-C
belongs to the debugger only while there is one.

Where standard input is something else, it is a pipe inside, filled piece by piece as it is read.
"""

import fcntl
import os
import select
import signal
import sys
import time
from typing import Optional

_DRAIN_S = 2.0
_OFF = b"\0"


class Terminal:
    """The supervisor's side: makes the terminal, and knows whose turn it is.

    It stays for as long as the supervisor: a session cannot change its terminal.

    Raises:
        OSError: There is no terminal to be had.
    """

    def __init__(self) -> None:
        import termios

        self.master, self.slave = os.openpty()
        for descriptor in (self.master, self.slave):
            os.set_inheritable(descriptor, False)
        os.set_blocking(self.master, False)
        if os.getsid(0) != os.getpid():
            os.setsid()
        fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
        # It is this process that moves jobs to the foreground, and it is in the background then.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        settings = termios.tcgetattr(self.slave)
        settings[0] |= getattr(termios, "IUTF8", 0o40000)
        # Nobody could bring a stopped worker back.
        settings[6][termios.VSUSP] = _OFF
        self._settings = settings
        self._termios = termios
        self.mark = b"\x1b]envpar;" + os.urandom(8).hex().encode() + b"\x07"
        self._rest = b""
        self._marks = 0
        self.reset()

    def reset(self) -> None:
        """For a new worker: as if nobody had used it."""
        self._termios.tcflush(self.slave, self._termios.TCIOFLUSH)
        self._termios.tcsetattr(self.slave, self._termios.TCSANOW, self._settings)
        os.tcsetpgrp(self.slave, os.getpgrp())
        self._marks = 0

    def resize(self, rows: int, columns: int) -> None:
        size = bytearray()
        for value in (rows, columns, 0, 0):
            size += min(max(value, 0), 0xFFFF).to_bytes(2, sys.byteorder)
        fcntl.ioctl(self.master, self._termios.TIOCSWINSZ, bytes(size))

    def lend(self, group: int) -> bool:
        """Make the job that was stopped the foreground one and let it go on; False if it is gone."""
        try:
            os.tcsetpgrp(self.slave, group)
            os.killpg(group, signal.SIGCONT)
        except OSError:
            return False
        return True

    def read(self) -> bytes:
        """What was written to it, without marks, as far as it is here."""
        try:
            data = self._rest + os.read(self.master, 1 << 16)
        except (BlockingIOError, OSError):
            return b""
        pieces = data.split(self.mark)
        self._marks += len(pieces) - 1
        last = pieces[-1]
        self._rest = b""
        start = last.rfind(self.mark[:1], -len(self.mark))
        if start >= 0 and self.mark.startswith(last[start:]):
            self._rest = last[start:]
            pieces[-1] = last[:start]
        return b"".join(pieces)

    def until_mark(self) -> bytes:
        """What was written before the next mark. What the kernel is slow to pass on is waited for, within bounds."""
        found = b""
        deadline = time.monotonic() + _DRAIN_S
        while not self._marks:
            left = deadline - time.monotonic()
            if left <= 0:
                return found
            if select.select([self.master], [], [], left)[0]:
                found += self.read()
        self._marks -= 1
        return found

    def rest(self) -> bytes:
        """All that a worker has written which is gone."""
        self._termios.tcflow(self.slave, self._termios.TCOON)
        os.write(self.slave, self.mark)
        return self.until_mark()


class Feed:
    """Bytes on their way to somebody who may be slow to take them."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.ended = False
        self._waiting = bytearray()

    def add(self, data: bytes) -> None:
        self._waiting += data
        self.ended = self.ended or not data

    def push(self) -> bool:
        """Write what can be written; True once nothing waits any more."""
        try:
            while self._waiting:
                sent = os.write(self.descriptor, self._waiting)
                del self._waiting[:sent]
        except BlockingIOError:
            return False
        except OSError:  # nobody reads any more
            self._waiting.clear()
        return True


def terminal_or_none() -> Optional[Terminal]:
    try:
        return Terminal()
    except OSError:
        return None
