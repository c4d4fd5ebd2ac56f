"""Standard input of this process, lent to the inside while somebody there reads from it.

A terminal is lent as ``docker exec -it`` lends it: raw, so that every key, Ctrl-C included, goes to the terminal
inside, which edits lines and turns keys into signals. It is raw only while the run waits for the inside; what this side
prints meanwhile gets its line ends from the terminal as ever. Anything else is passed on piece by piece, as asked for.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import stat
import termios
import threading
import tty
from typing import TYPE_CHECKING, Any

from pytest_envpar.worker.agent import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_envpar.worker.client import Client

_PIECE = 1 << 16
_SIZE_S = 0.25
"""How often a terminal that is lent is asked for its size."""
_LOCAL = termios.error, OSError, ValueError


class Console:
    """Owns a duplicate of standard input, made before pytest's capture puts something else there.

    It changes as the terminal is lent and taken back. ``close`` always leaves the terminal as it was found.
    """

    def __init__(self) -> None:
        self._entry: int | None = None
        self._streams: tuple[int, ...] = ()
        self._before: list[Any] | None = None
        self._printing: bool | None = None
        self._ended = False
        self._feeder: threading.Thread | None = None
        self._wake: tuple[int, int] | None = None
        self._line_end = ""
        try:
            kind = os.fstat(0)
            if stat.S_ISCHR(kind.st_mode) and kind.st_rdev == os.stat(os.devnull).st_rdev:  # noqa: PTH116
                return
            self._entry = os.dup(0)
        except OSError:
            return
        if os.isatty(0):
            self._streams = tuple(number for number in (0, 1, 2) if os.isatty(number))

    @property
    def is_terminal(self) -> bool:
        """Whether the user sits at a terminal."""
        return bool(self._streams)

    def asked(self) -> dict[str, Any] | None:
        """The option ``input`` of :class:`~pytest_envpar.worker.agent.wire.Init`."""
        if self._entry is None or self._ended:
            return None
        size = shutil.get_terminal_size()
        return {
            "terminal": list(self._streams),
            "rows": size.lines,
            "columns": size.columns,
            "term": os.environ.get("TERM", ""),
        }

    # --- lending -------------------------------------------------------------------------------------------------

    def listen(self, client: Client, *, wanted: bool) -> None:
        """Somebody inside reads, or nobody does any more."""
        if self._entry is None or self._ended:
            return
        if not self.is_terminal:
            if wanted:
                threading.Thread(target=self._piece, args=(client,), name="envpar-stdin", daemon=True).start()
        elif wanted:
            self._lend(client)
        else:
            self.take_back()

    def waiting(self) -> None:
        """The run waits for the inside: a terminal that is lent is entirely its own."""
        self._set(output=False)

    def showing(self) -> None:
        """This side may print."""
        self._set(output=True)

    def take_back(self) -> None:
        """Nobody inside reads any more: the terminal is what it was. Safe to repeat."""
        before, self._before = self._before, None
        self._printing = None
        feeder, self._feeder = self._feeder, None
        if self._wake is not None:
            os.write(self._wake[1], b".")
        if feeder is not None:
            feeder.join()
        if self._wake is not None:
            for descriptor in self._wake:
                os.close(descriptor)
            self._wake = None
        if before is not None and self._entry is not None:
            with contextlib.suppress(*_LOCAL):
                termios.tcsetattr(self._entry, termios.TCSADRAIN, before)

    def close(self) -> None:
        """Take back what is lent, for good. Safe to repeat."""
        self.take_back()
        self._ended = True
        # A pipe may still be read by a thread: its number must not become that of another file.
        if self.is_terminal and self._entry is not None:
            os.close(self._entry)
            self._entry = None

    def _lend(self, client: Client) -> None:
        if self._before is not None:
            return
        assert self._entry is not None
        try:
            self._before = termios.tcgetattr(self._entry)
        except _LOCAL:  # it has been hung up
            return
        self._wake = os.pipe()
        self._feeder = threading.Thread(target=self._keys, args=(client,), name="envpar-keys", daemon=True)
        self._feeder.start()

    def _set(self, *, output: bool) -> None:
        if self._printing == output or self._entry is None or self._before is None:
            return
        self._printing = output
        with contextlib.suppress(*_LOCAL):
            tty.setraw(self._entry, termios.TCSADRAIN)
            if output:
                settings = termios.tcgetattr(self._entry)
                settings[1] = self._before[1]
                termios.tcsetattr(self._entry, termios.TCSADRAIN, settings)

    # --- in threads ----------------------------------------------------------------------------------------------

    def _keys(self, client: Client) -> None:
        entry, wake = self._entry, self._wake
        if entry is None or wake is None:
            return
        size = shutil.get_terminal_size()
        while True:
            ready, _, _ = select.select([entry, wake[0]], [], [], _SIZE_S)
            if wake[0] in ready:
                return
            if shutil.get_terminal_size() != size:
                size = shutil.get_terminal_size()
                client.send(wire.Resize(size.lines, size.columns))
            if entry in ready:
                try:
                    data = os.read(entry, _PIECE)
                except OSError:
                    return
                if not data:
                    return
                client.send(wire.Stdin(data.decode("latin-1")))

    def _piece(self, client: Client) -> None:
        assert self._entry is not None
        try:
            data = os.read(self._entry, _PIECE)
        except OSError:
            data = b""
        self._ended = self._ended or not data
        client.send(wire.Stdin(data.decode("latin-1")))

    # --- output --------------------------------------------------------------------------------------------------

    def write(self, text: str, out: Callable[[int, str], None]) -> None:
        """Show what was written to the terminal inside.

        That one has turned line ends into those of a terminal already; while this one is not raw, it would do it again.

        Args:
            out: Writes to a stream of this process.
        """
        if self._before is None:
            text = self._line_end + text
            self._line_end = "\r" if text.endswith("\r") else ""
            text = text.removesuffix("\r").replace("\r\n", "\n")
        elif self._line_end:
            text, self._line_end = self._line_end + text, ""
        if 1 in self._streams:
            out(1, text)
        elif self._entry is not None:
            with contextlib.suppress(OSError):
                view = memoryview(text.encode("utf-8", "surrogateescape"))
                while view:
                    view = view[os.write(self._entry, view) :]
