"""Owners: written as labels, read back, and told dead or alive."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_envpar.containers.labels import KIND, RUN, STAGE, Owner, is_dead, is_gone


@pytest.fixture
def owner() -> Owner:
    return Owner.current(Path("/data/proj"))


def test_labels_round_trip(owner: Owner) -> None:
    labels = owner.labels("run", "qa")
    assert Owner.parse(labels) == owner
    assert (labels[KIND], labels[STAGE], labels[RUN]) == ("run", "qa", owner.run)
    assert all(key.startswith("pytest-envpar.") for key in labels)
    assert STAGE not in owner.labels("cache")


def test_runs_differ_unless_shared() -> None:
    root = Path("/data/proj")
    assert Owner.current(root).run != Owner.current(root).run
    assert Owner.current(root, run="abc").run == "abc"


def test_a_path_that_is_no_utf8_becomes_text() -> None:
    made = Owner.current(Path(os.fsdecode(b"/data/\xff")))
    assert made.project == "/data/\\xff"


@pytest.mark.parametrize("change", [{"pytest-envpar.pid": "x"}, {"pytest-envpar.pid": None}])
def test_incomplete_labels_have_no_owner(owner: Owner, change: dict[str, str | None]) -> None:
    labels = {**owner.labels("run"), **change}
    assert Owner.parse({key: value for key, value in labels.items() if value is not None}) is None
    assert Owner.parse({}) is None


def test_this_process_is_alive(owner: Owner) -> None:
    assert owner.pid_start > 0
    assert not is_dead(owner)


def test_an_ended_process_is_dead(owner: Owner) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert is_dead(dataclasses.replace(owner, pid=process.pid, pid_start=1))


def test_a_killed_process_that_nobody_reaped_is_dead(owner: Owner) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
    held = dataclasses.replace(owner, pid=process.pid, pid_start=start)
    try:
        assert not is_dead(held)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_dead(held)
    finally:
        process.communicate()


def test_a_reused_pid_is_dead(owner: Owner) -> None:
    assert is_dead(dataclasses.replace(owner, pid_start=owner.pid_start + 1))


def test_an_unknown_start_time_counts_as_alive(owner: Owner) -> None:
    assert not is_dead(dataclasses.replace(owner, pid_start=0))


def test_another_boot_is_dead(owner: Owner) -> None:
    assert is_dead(dataclasses.replace(owner, boot="another"))
    assert not is_dead(dataclasses.replace(owner, boot=""))


@pytest.mark.parametrize("foreign", [{"host": "elsewhere"}, {"pid_namespace": "pid:[1]"}])
def test_what_cannot_be_known_is_alive(owner: Owner, foreign: dict[str, str]) -> None:
    assert not is_dead(dataclasses.replace(owner, pid_start=1, **foreign))  # type: ignore[arg-type]


def test_another_host_with_another_boot_is_alive(owner: Owner) -> None:
    assert not is_dead(dataclasses.replace(owner, host="elsewhere", boot="another"))


def test_a_project_is_gone_once_its_folder_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not is_gone(Owner.current(tmp_path))
    assert is_gone(Owner.current(tmp_path / "none"))
    assert is_gone(Owner.current(tmp_path / "file" / "none"))


@pytest.mark.parametrize("reason", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_a_project_that_cannot_be_looked_at_is_not_gone(
    owner: Owner, reason: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "lstat", fail)
    assert not is_gone(owner)


def test_another_users_project_is_not_gone(tmp_path: Path) -> None:
    mine = Owner.current(tmp_path / "none")
    assert not is_gone(dataclasses.replace(mine, uid=mine.uid + 1))
