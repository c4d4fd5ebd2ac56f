"""Ends of a run that the inside decided on, told as pytest tells its own."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_envpar.session import crash
from pytest_envpar.session.hearing import EXIT_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_envpar.session.link import Link
    from pytest_envpar.worker.agent import wire

OVER = (int(pytest.ExitCode.OK), int(pytest.ExitCode.TESTS_FAILED), int(pytest.ExitCode.NO_TESTS_COLLECTED))
"""The exit statuses of a session that went to its end."""


def raise_for_stop(stop: wire.Stop, stage: str) -> NoReturn:
    """Stop this session for the reason for which the one inside has stopped."""
    session = pytest.Session
    if stop.kind == "exit":
        pytest.exit(stop.text, stop.returncode)
    if stop.kind == "failed":
        raise session.Failed(stop.text)  # pytest_sessionfinish makes it the session's own reason
    if stop.kind == "keyboard":
        keyboard_interrupt(stop.location)
    if stop.kind == "internal":
        write_internal_error(stop.text)
        pytest.exit(f"pytest failed inside stage {stage}", int(pytest.ExitCode.INTERNAL_ERROR))
    raise session.Interrupted(stop.text)


def raise_for_end(link: Link, outside: Sequence[str]) -> NoReturn:
    """The inside ended while the host expected more.

    Args:
        outside: What a usage error inside cannot know; see :func:`outside`.
    """
    if link.stop is not None:
        raise_for_stop(link.stop, link.stage)
    status = link.finished.status if link.finished is not None else int(pytest.ExitCode.INTERNAL_ERROR)
    if status == int(pytest.ExitCode.USAGE_ERROR):
        # With no lines if the inside has written them already.
        raise pytest.UsageError(*_usage_lines(link, outside))
    pytest.exit(f"the session inside stage {link.stage} ended with status {status}", status)


def _usage_lines(link: Link, outside: Sequence[str]) -> list[str]:
    deadline = time.monotonic() + EXIT_S
    while not link.exited and time.monotonic() < deadline:
        link.receive(0.2)
    text = "".join(text for _, text in link.held or ())
    lines = [line.removeprefix("ERROR: ") for line in text.splitlines() if line.strip()]
    lines += outside
    return lines if lines or link.held is None else ["a usage error inside the stage"]


def outside(root: Path, here: Path, words: Sequence[str]) -> list[str]:
    """Lines on paths of a command line that exist on this side only.

    Args:
        root: The project's root (host).
        here: The working directory (host).
        words: What pytest takes for paths and node ids.
    """
    # Not Path.exists(): words that are too long for a path raise there.
    paths = [word for word in words if os.path.exists(here / word.partition("::")[0])]  # noqa: PTH110
    return [
        f"{path} is outside of the project {root}: it is not in the container"
        for path in paths
        if not _inside(root, here / path.partition("::")[0])
    ]


def _inside(root: Path, path: Path) -> bool:
    resolved = Path(os.path.normpath(path))
    return resolved == root or root in resolved.parents


def write_internal_error(text: str) -> None:
    """An error of pytest or a plugin inside, as pytest writes its own."""
    for line in text.splitlines():
        sys.stdout.write(f"INTERNALERROR> {crash.escaped(line)}\n")


def keyboard_interrupt(location: Any) -> NoReturn:
    """Raise KeyboardInterrupt as if from ``location`` inside, so that pytest names that place and not ours."""
    if isinstance(location, (list, tuple)) and len(location) == 2 and isinstance(location[1], int):
        path, line = str(location[0]), min(max(location[1], 1), 1_000_000)
        exec(compile("\n" * (line - 1) + "raise KeyboardInterrupt", path, "exec"), {"__name__": "inside"})
    raise KeyboardInterrupt


def one_status(own: int, verdicts: Sequence[int]) -> int:
    """One exit status for several sessions: an unusual one first, then failures; no tests only if none had any.

    Args:
        own: What pytest made of the reports that it saw.
        verdicts: The exit statuses of the sessions inside.
    """
    unusual = [status for status in verdicts if status not in OVER]
    if unusual:
        return unusual[0]
    failed = int(pytest.ExitCode.TESTS_FAILED)
    if failed in (own, *verdicts):
        return failed
    empty = int(pytest.ExitCode.NO_TESTS_COLLECTED)
    return empty if all(status == empty for status in verdicts) else int(pytest.ExitCode.OK)
