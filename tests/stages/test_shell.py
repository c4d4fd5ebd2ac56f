"""``envpar shell``: the stage's environment, by hand."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.containers.sweep import list_ours

if TYPE_CHECKING:
    from .projects import Project

pytestmark = pytest.mark.engine

_LIMIT_S = 90.0


def _shell(project: Project, *args: str, **more: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "pytest_envpar", "shell", *args]
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command,
        cwd=project.root,
        env=project.environ,
        capture_output=True,
        timeout=_LIMIT_S,
        check=False,
        **more,
    )


def test_a_command_with_pipes(project: Project) -> None:
    project.stage('env = { APP = "shelf" }')
    done = _shell(project, "qa", "--", "sh", "-c", "cat; echo $APP; pwd; echo err >&2; exit 7", input=b"in ")
    assert done.returncode == 7, done
    assert done.stdout.decode() == f"in shelf\n{project.root}\n"
    assert done.stderr.endswith(b"err\n")
    assert _left(project) == []


def test_a_script_on_standard_input(project: Project) -> None:
    project.stage()
    done = _shell(project, "qa", input=b"echo $((6 * 7))\n")
    assert (done.returncode, done.stdout) == (0, b"42\n")


def test_a_terminal(project: Project) -> None:
    project.stage('env = { APP = "shelf" }')
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_envpar", "shell", "qa"],
        cwd=project.root,
        env={**project.environ, "TERM": "dumb"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        _until(master, rb"[#$] $")
        # What is waited for is not in the line that is typed, which is echoed.
        os.write(master, b"test -t 1 && echo app-$APP-$((6 * 7))\n")
        _until(master, rb"app-shelf-42\r\n")
        # Its own word, not the echo of the line: before that, the interrupt could reach the shell alone.
        os.write(master, b"sh -c 'echo asleep-$((1 + 1)); exec sleep 600'\n")
        _until(master, rb"asleep-2\r\n")
        os.write(master, b"\x03exit 5\n")
        while _read(master):
            pass
        assert process.wait(_LIMIT_S) == 5
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert _left(project) == []


def test_a_terminal_that_goes_away(project: Project) -> None:
    project.stage()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_envpar", "shell", "qa", "--", "sh", "-c", "echo up; sleep 600"],
        cwd=project.root,
        env=project.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.terminate()
    process.communicate(timeout=_LIMIT_S)
    assert process.returncode == 143
    assert _left(project) == []


def test_a_stage_that_is_not_there(project: Project) -> None:
    project.stage()
    done = _shell(project, "prod")
    assert done.returncode == 2
    assert b"prod" in done.stderr
    assert b"Traceback" not in done.stderr


def _left(project: Project) -> list[object]:
    return [
        each
        for each in list_ours(project.engine)
        if each.project == str(project.root) and each.state != "cache"
    ]


def _read(master: int) -> bytes:
    ready, _, _ = select.select([master], [], [], _LIMIT_S)
    if not ready:
        return b""
    try:
        return os.read(master, 65536)
    except OSError:  # the other side is closed
        return b""


def _until(master: int, pattern: bytes) -> bytes:
    seen = b""
    deadline = time.monotonic() + _LIMIT_S
    while not re.search(pattern, seen, re.DOTALL):
        assert time.monotonic() < deadline, seen
        piece = _read(master)
        assert piece, seen
        seen += piece
    return seen
