"""Engines over ssh: the command, and what is said where it fails. The real thing is in tests/pool."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.engine.docker_api import DockerEngine
from pytest_envpar.engine.ssh import Target, Tunnel
from pytest_envpar.errors import ConnectionLostError, EngineError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("url", "expected", "shown"),
    [
        ("ssh://build", Target("build"), "ssh://build"),
        ("ssh://me@build:22/", Target("build", "me", 22), "ssh://build:22"),
        ("ssh://me@[::1]:5/run/x.sock", Target("::1", "me", 5, "/run/x.sock"), "ssh://[::1]:5/run/x.sock"),
        ("ssh://h/a%20b", Target("h", path="/a b"), "ssh://h/a b"),
    ],
)
def test_urls(url: str, expected: Target, shown: str) -> None:
    assert Target.parse(url) == expected
    assert expected.url == shown


def test_the_command_line() -> None:
    words = Target("build", "me", 2222, "/run/x y.sock").command()
    assert words[-2] == "build"
    assert words[-3] == "--"
    assert words[words.index("-p") + 1] == "2222"
    assert words[words.index("-l") + 1] == "me"
    # What the far side's shell makes of it, whichever kind it is: one argument of "sh -c".
    script = words[-1].replace("exec sh -c", "printf %s", 1)
    got = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert "exec docker '--host=unix:///run/x y.sock' system dial-stdio" in got.replace(
        "--host='", "'--host="
    )


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    program = folder / "ssh"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_what_ssh_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "echo 'me@build: Permission denied (publickey).' >&2; exit 255")
    with pytest.raises(ConnectionLostError, match=r"ssh: me@build: Permission denied \(publickey\)"):
        DockerEngine("ssh://build")


def test_bytes_go_both_ways_and_closing_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "exec cat")
    with Tunnel.open(Target("build")) as tunnel:
        tunnel.sendall(b"there and back")
        assert tunnel.recv(100) == b"there and back"
    assert tunnel.last_words() == ""
    assert tunnel.returncode == 0


def test_without_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="ssh cannot be started") as caught:
        Tunnel.open(Target("build"))
    assert "openssh-client" in str(caught.value)
