"""``envpar shell STAGE``: a terminal, or a command, in a fresh container of a stage."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import termios
import threading
import tty
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pytest_envpar import userfiles
from pytest_envpar.cli import FINE
from pytest_envpar.config import find_config, get_stage, load_settings
from pytest_envpar.containers.labels import Owner
from pytest_envpar.errors import ConfigError, ConnectionLostError
from pytest_envpar.worker.supply import Supply

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from pytest_envpar.containers.handle import Container
    from pytest_envpar.engine.api import Stream

_SHELL = ("sh", "-c", "if command -v bash >/dev/null; then exec bash; fi; exec sh")
_PIECE = 1 << 16


def shell(stage: str, command: Sequence[str], engine: str | None) -> int:
    """Run a shell, or ``command``, in a container of ``stage`` that is removed at the end; returns its exit code.

    The container is that of the stage's fixtures: the locked image, every key of the stage, the project mounted.
    """
    file = find_config(Path.cwd())
    if file is None:
        raise ConfigError(f"no stages are configured in {Path.cwd()} or above", hint="see `envpar init`")
    settings = load_settings(file)
    get_stage(settings, stage)
    environ = dict(os.environ)
    with _ended_by_signals():
        supply = Supply(
            settings,
            Owner.current(settings.root),
            (engine,) if engine else settings.engines,
            userfiles.cache_dir(environ),
            environ,
        )
        try:
            recipe = supply.stage(stage)
            for line in supply.told:
                sys.stderr.write(f"envpar: {line}\n")
            container = supply.start(recipe)
            words = tuple(command) or _SHELL
            if sys.stdin.isatty() and sys.stdout.isatty():
                return _terminal(container, words, environ)
            return _pipes(container, words)
        finally:
            supply.close()


def _terminal(container: Container, command: Sequence[str], environ: dict[str, str]) -> int:
    engine = container.recipe.engine
    env = {"TERM": environ.get("TERM", "xterm")}
    exec_id, stream = engine.open_terminal(container.id, command, env=env)
    entry = sys.stdin.fileno()

    def resize(*_: object) -> None:
        size = shutil.get_terminal_size()
        # Only how it looks: a command that has just ended has no size any more.
        with contextlib.suppress(Exception):
            engine.resize_terminal(exec_id, rows=size.lines, columns=size.columns)

    before = termios.tcgetattr(entry)
    winch = signal.signal(signal.SIGWINCH, resize)
    try:
        tty.setraw(entry)
        resize()
        threading.Thread(target=_feed, args=(entry, stream), daemon=True).start()
        while (piece := stream.read()) is not None and piece[0]:
            _write(1, piece[1])
    finally:
        termios.tcsetattr(entry, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, winch)
        stream.close()
    return engine.exec_exit_code(exec_id) or FINE


def _pipes(container: Container, command: Sequence[str]) -> int:
    with container.popen(command) as process:
        threading.Thread(target=_feed, args=(sys.stdin.fileno(), process), daemon=True).start()
        while (piece := process.read()) is not None and piece[0]:
            _write(piece[0], piece[1])
        return process.wait()


def _feed(entry: int, sink: Stream | object) -> None:
    write = getattr(sink, "write")  # noqa: B009 - a stream or a process
    with contextlib.suppress(ConnectionLostError, OSError):
        while data := os.read(entry, _PIECE):
            write(data)
        close = getattr(sink, "close_stdin", None)
        if close is not None:
            close()


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A terminal that is closed, or a kill, leaves through the removal."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        raise SystemExit(128 + number)

    before = [(number, signal.signal(number, leave)) for number in (signal.SIGTERM, signal.SIGHUP)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
