"""A command that runs in a container."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from typing import TYPE_CHECKING

from pytest_envpar.engine.values.processes import ExecResult
from pytest_envpar.errors import (
    CommandError,
    CommandTimeoutError,
    ConnectionLostError,
    EngineError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import PurePosixPath

    from pytest_envpar.engine.api import Engine

_POLL_S = 0.005
_MOST_POLL_S = 0.1
_MARK = "ENVPAR_COMMAND"
_TAIL_LINES = 20
_KILL_LIMIT_S = 30.0
_KILL_AGAIN_S = 0.5

# The API has no verb that ends an exec. Every process that the command has started has its variable, unless it went out
# of its way to lose it; three rounds, because a process may start another one while the first are being found.
_BY_SHELL = (
    "for round in 1 2 3; do for p in /proc/[0-9]*; do "
    'if grep -q "$1" "$p/environ"; then kill -9 "${p#/proc/}"; fi; done; done 2>/dev/null'
)
_BY_PYTHON = """
import os, sys
for _ in range(3):
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/environ" % p, "rb") as file:
                if sys.argv[1].encode() in file.read():
                    os.kill(int(p), 9)
        except OSError:
            pass
"""
_CANNOT_RUN = (126, 127)


class Process:
    """A command that :meth:`~pytest_envpar.containers.handle.Container.popen` started. A context manager: leaving it
    kills what still runs.

    One thread may read while another writes. It changes: output that was read is not read again.
    """

    def __init__(
        self,
        engine: Engine,
        container: str,
        args: Sequence[str],
        *,
        env: Mapping[str, str],
        user: str | None,
        workdir: PurePosixPath | None,
        stdin: bool,
        killable: bool,
        most: int | None = None,
    ) -> None:
        self.args = tuple(args)
        self._engine = engine
        self._container = container
        self._user = user
        self._most = most
        self._token = secrets.token_hex(12) if killable else None
        marked = {**env, _MARK: self._token} if self._token else env
        self._id, self._stream = engine.open_exec(
            container, self.args, env=marked, user=user, workdir=workdir, stdin=stdin
        )
        self._code: int | None = None

    def write(self, data: bytes) -> None:
        """Send ``data`` to standard input. Raises ConnectionLostError if the command no longer reads."""
        self._stream.write(data)

    def close_stdin(self) -> None:
        """End standard input; output can still be read."""
        self._stream.close_write()

    def read(self, timeout: float | None = None) -> tuple[int, bytes] | None:
        """The next piece of output.

        Args:
            timeout: Seconds to wait; ``None`` waits until there is some.

        Returns:
            ``(1, data)`` from standard output, ``(2, data)`` from standard error, ``(0, b"")`` at the end, ``None`` if
            the time is up.
        """
        return self._stream.read(timeout)

    def poll(self) -> int | None:
        """The exit code; ``None`` while the command runs."""
        if self._code is None:
            self._code = self._engine.exec_exit_code(self._id)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code; output that nobody has read is dropped.

        Args:
            timeout: Seconds to wait; ``None`` waits for ever. The command is not killed.

        Raises:
            TimeoutError: The time is up.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (piece := self._stream.read(_left(deadline))) is not None and piece[0]:
            pass
        return self._wait(deadline)

    def communicate(self, data: bytes | None = None, timeout: float | None = None) -> ExecResult:
        """Send ``data``, end standard input, and read all output until the command has ended.

        Args:
            data: For standard input; ``None`` sends nothing and leaves it open.
            timeout: Seconds until the command is killed; ``None`` waits for ever.

        Raises:
            CommandTimeoutError: The time was up. The error has what was written so far.
            UsageError: There is more output than may be held.
        """
        left = self._most
        deadline = None if timeout is None else time.monotonic() + timeout
        output: dict[int, list[bytes]] = {1: [], 2: []}
        if data is not None:
            # Beside the reading: a command that answers while it is fed would block both sides.
            threading.Thread(target=self._feed, args=(data,), daemon=True).start()
        try:
            while piece := self._stream.read(_left(deadline)):
                if piece[0] == 0:
                    return ExecResult(self._wait(deadline), b"".join(output[1]), b"".join(output[2]))
                output[piece[0]].append(piece[1])
                if left is not None:
                    left -= len(piece[1])
                    if left < 0:
                        raise self._too_much()
        except TimeoutError:
            pass
        finally:
            self._stream.close()
        raise self._overdue(timeout, b"".join(output[1]), b"".join(output[2]))

    def kill(self) -> bool:
        """Kill the command and everything that it has started; False if nothing in the image can do that."""
        if self._token is None:
            return False
        deadline = time.monotonic() + _KILL_LIMIT_S
        while self._kill(self._token):
            # An engine answers before a command is there: what was started just now is not found yet.
            if self._has_ended(_KILL_AGAIN_S) or time.monotonic() > deadline:
                return True
        return False

    def _has_ended(self, timeout_s: float) -> bool:
        try:
            self._wait(time.monotonic() + timeout_s)
        except TimeoutError:
            return False
        except EngineError:
            pass  # the container is gone, and the command with it
        return True

    def _kill(self, token: str) -> bool:
        ways = (
            ("sh", "-c", _BY_SHELL, "sh", token),
            ("python3", "-c", _BY_PYTHON, token),
        )
        for command in ways:
            try:
                # As the command's own user: root in a container may not look into the processes of others.
                done = self._engine.exec(self._container, command, user=self._user, timeout_s=_KILL_LIMIT_S)
            except (EngineError, TimeoutError):
                # An engine may refuse to start what is not there, and a container that is gone has no processes.
                continue
            if done.exit_code not in _CANNOT_RUN:
                return True
        return False

    def close(self) -> None:
        """Kill the command if it still runs, and let go of its streams."""
        try:
            if self.poll() is None:
                self.kill()
        except EngineError:
            pass  # the container is gone, and the command with it
        finally:
            self._stream.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _feed(self, data: bytes) -> None:
        # A command that does not read its input to the end is not an error.
        with contextlib.suppress(ConnectionLostError):
            self._stream.write(data)
            self._stream.close_write()

    def _wait(self, deadline: float | None) -> int:
        pause = _POLL_S
        # The stream ends a moment before the engine has the code, or long before if the command closed its output.
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"{self.args[0]} did not end in time")
            time.sleep(pause)
            pause = min(pause * 2, _MOST_POLL_S)
        return code

    def _too_much(self) -> UsageError:
        self.kill()
        return UsageError(
            f"{shown(self.args)} wrote more than {(self._most or 0) >> 20} MiB, which is the most that one call brings",
            hint="read a file in pieces (dd, tail -c +N | head -c N), or use popen and read()",
        )

    def _overdue(self, timeout: float | None, stdout: bytes, stderr: bytes) -> CommandTimeoutError:
        killed = self.kill()
        return CommandTimeoutError(
            f"{shown(self.args)} did not end within {timeout:g} s"
            + (
                " and was killed"
                if killed
                else "; it goes on, because the image has no shell to kill it with"
            ),
            hint="give it more time, or see what it waits for",
            detail=tail(stdout, stderr),
            stdout=stdout,
            stderr=stderr,
        )


def failure(args: Sequence[str], result: ExecResult) -> CommandError:
    """The error for a command whose exit code is not 0."""
    return CommandError(
        f"{shown(args)} ended with exit code {result.exit_code}",
        detail=tail(result.stdout, result.stderr),
        exit_code=result.exit_code,
        stdout=result.stdout,
        stderr=result.stderr,
    )


def shown(args: Sequence[str]) -> str:
    """A command for a message: one line, not too long."""
    text = " ".join(args)
    printable = "".join(sign if sign.isprintable() else "?" for sign in text)
    return printable if len(printable) <= 200 else printable[:200] + "..."


def tail(stdout: bytes, stderr: bytes) -> tuple[str, ...]:
    """The last lines of what a command wrote, without what would steer a terminal."""
    text = (stdout[-8192:] + (b"\n" if stdout and stderr else b"") + stderr[-8192:]).decode(
        "utf-8", "replace"
    )
    lines = [line for line in text.splitlines() if line.strip()][-_TAIL_LINES:]
    return tuple("".join(s if s.isprintable() or s == "\t" else "?" for s in line) for line in lines)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
