"""``--env-reuse``: the next run finds a container that waits for it, of which it is known that nobody was in it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest
from rig.needs import module

from pytest_envpar.containers.sweep import list_ours, prune, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rig.runs import Ran

    from pytest_envpar.containers.sweep import OurObject

    from .projects import Project

pytestmark = pytest.mark.engine

WARM = "envpar: in a warm container, unchanged since it was started"
SUITE = """
    import os, pathlib
    def test_a():
        assert not pathlib.Path("dirt").exists()
        assert not pathlib.Path("/var/tmp/dirt").exists()
        assert not pathlib.Path("/dev/shm/dirt").exists()
        pathlib.Path("dirt").touch()
        pathlib.Path("test_it.py").write_text("def test_other(): assert 0")
        pathlib.Path("/var/tmp/dirt").touch()
        pathlib.Path("/dev/shm/dirt").touch()
        if os.fork() == 0:
            os.setsid()
            os.execlp("sleep", "sleep", "600")
"""


@pytest.fixture
def warm(project: Project) -> Iterator[Project]:
    """A project whose warm containers go after the test."""
    yield project
    for each in ours(project):
        if each.type == "container":
            project.engine.remove_container(each.id)
    for each in ours(project):
        if each.type == "volume" and each.kind == "warm":
            project.engine.remove_volume(each.name)


def ours(project: Project) -> list[OurObject]:
    return [each for each in list_ours(project.engine) if each.project == str(project.root)]


def waiting(project: Project) -> list[OurObject]:
    """The containers that wait for a run."""
    return [each for each in ours(project) if each.type == "container" and each.state == "cache"]


def run(project: Project, *args: str) -> Ran:
    return project.run("--env-reuse", *args).ok()


def test_nothing_of_a_run_gets_into_the_next(warm: Project) -> None:
    warm.write("test_it.py", SUITE)
    assert WARM not in run(warm).out
    (container,) = waiting(warm)
    assert container.kind == "warm"
    result = warm.run("--env-reuse", command="envpar").ok()  # it begins before pytest is imported
    assert WARM in result.out
    assert "replaced" not in result.err
    assert "drift: suite left 1 change in the container: + /var/tmp/dirt" in result.out
    (following,) = waiting(warm)
    assert container.id != following.id


def test_changes_of_the_project_are_seen(warm: Project) -> None:
    """Also by a container that was started before them, over the folder that they are made in."""
    warm.write("test_it.py", "import helper\ndef test_a(): assert helper.VALUE == 1\n")
    warm.write("helper.py", "VALUE = 1\n")
    warm.write("gone.py", "")
    warm.write("deep/er/data.txt", "one")
    run(warm)
    # In place, by renaming, new, removed, and below.
    warm.write("test_it.py", "import helper, added, os\n")
    with warm.root.joinpath("test_it.py").open("a") as file:
        file.write("def test_a(): assert helper.VALUE == added.VALUE == 2\n")
        file.write("def test_b(): assert not os.path.exists('gone.py')\n")
        file.write("def test_c(): assert open('deep/er/data.txt').read() == 'two'\n")
        file.write("def test_d(): assert os.path.exists('conftest.py')\n")
    warm.write("helper.new", "VALUE = 2\n").rename(warm.root / "helper.py")
    warm.write("added.py", "VALUE = 2\n")
    warm.write("conftest.py", "")
    (warm.root / "gone.py").unlink()
    warm.write("deep/er/data.txt", "two")
    result = run(warm)
    assert WARM in result.out
    assert result.line == "4 passed"


def test_whoever_was_there_is_noticed(warm: Project) -> None:
    warm.write("test_it.py", "def test_a(): pass\n")
    run(warm)
    for script, told in (
        ("echo x >> /etc/issue", "its files have changed: /etc/issue"),
        ("echo x > dirt", "something has happened in it: /.envpar/written"),
        ("echo x > /dev/shm/dirt", "something has happened in it: /dev/shm"),
        ("setsid sleep 600 > /dev/null 2>&1 &", "something has happened in it: processes"),
        ("echo 1.2.3.4 there >> /etc/hosts", "something has happened in it: /etc/hosts"),
    ):
        (container,) = waiting(warm)
        done = warm.engine.exec(container.id, ["sh", "-c", script], workdir=PurePosixPath(warm.root))
        assert done.ok, done
        result = run(warm)
        assert f"envpar: stage qa: the warm container is replaced: {told}" in result.err
        assert WARM not in result.out
        assert container.id not in {each.id for each in ours(warm)}


@pytest.mark.slow
def test_one_that_does_not_run_any_more_is_replaced(warm: Project) -> None:
    warm.write("test_it.py", "def test_a(): pass\n")
    run(warm)
    warm.engine.kill(waiting(warm)[0].id)
    assert "the warm container is replaced: it is exited" in run(warm).err


def test_another_setting_needs_another_container(warm: Project) -> None:
    warm.write("test_it.py", "def test_a(): pass\n")
    run(warm)
    told = "is replaced: the image, a setting or the place of the project is another"
    warm.stage('env = { A = "2" }', 'pass-env = ["GIVEN"]')
    assert told in warm.run("--env-reuse", GIVEN="1").ok().err
    assert len(waiting(warm)) == 1
    assert WARM in warm.run("--env-reuse", GIVEN="1").ok().out
    assert told in warm.run("--env-reuse", GIVEN="2").ok().err


def test_two_runs_at_once_never_share_one(warm: Project) -> None:
    warm.write("test_it.py", SUITE)
    run(warm)
    results: list[Ran] = []

    def again() -> None:
        results.append(warm.run("--env-reuse", alone=False))

    threads = [threading.Thread(target=again) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        result.ok()
    # One of them may have found what another one has left.
    assert 1 <= sum(WARM in result.out for result in results) <= 3
    assert len(waiting(warm)) == 1
    assert all(each.state == "cache" for each in ours(warm))


def test_what_a_killed_run_had_claimed_is_never_used_again(warm: Project) -> None:
    warm.write(
        "test_it.py",
        """
        import os, pathlib, time
        def test_a():
            assert not pathlib.Path("dirt").exists()
            pathlib.Path("dirt").touch()
            if "HOLD" in os.environ:
                os.write(1, b"now held")
                time.sleep(1000)
        """,
    )
    warm.stage('pass-env = ["HOLD"]')
    warm.run("--env-reuse", "--co", HOLD="1").ok()
    (container,) = waiting(warm)
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-s", "--env=qa", "--env-reuse"],
        cwd=warm.root,
        env={**warm.environ, "HOLD": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    seen = b""
    while b"now held" not in seen:
        piece = os.read(process.stdout.fileno(), 1 << 16)
        assert piece, seen
        seen += piece
    assert WARM.encode() in seen
    (taken,) = [each for each in ours(warm) if each.id == container.id]
    assert (taken.state, taken.name.startswith("envpar-taken-")) == ("live", True)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    # Any other run on this machine may have swept it meanwhile; it is no cache again.
    assert {each.state for each in ours(warm) if each.id == container.id} <= {"dead"}
    # What the engine was just making for the killed run may appear after a sweep; the next one takes it.
    deadline = time.monotonic() + 60
    while {each.state for each in ours(warm) if each.kind == "warm"} - {"cache"}:
        assert time.monotonic() < deadline, ours(warm)
        sweep(warm.engine, everything_dead=False)
    assert container.id not in {each.id for each in ours(warm)}


@pytest.mark.slow
def test_it_is_a_cache(warm: Project) -> None:
    warm.write("test_it.py", "def test_a(): pass\n")
    run(warm)
    (container,) = waiting(warm)
    listed = [
        subprocess.run(
            [sys.executable, "-m", "pytest_envpar", "ps", *more],
            cwd=warm.root,
            env=warm.environ,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for more in ([], ["--cache"])
    ]
    row = rf"^container +{re.escape(container.name)} +warm +cache +qa +{warm.root}$"
    assert not re.search(row, listed[0], re.MULTILINE)
    assert re.search(row, listed[1], re.MULTILINE)
    sweep(warm.engine, everything_dead=False)
    prune(warm.engine, project=str(warm.root))
    assert len(waiting(warm)) == 1
    prune(warm.engine, cache=True, project=str(warm.root))
    assert [each for each in ours(warm) if each.kind == "warm"] == []


def test_it_goes_when_its_project_is_gone(warm: Project) -> None:
    warm.write("test_it.py", "def test_a(): pass\n")
    run(warm)
    sweep(warm.engine, everything_dead=False)
    assert len(waiting(warm)) == 1
    shutil.rmtree(warm.root)
    sweep(warm.engine, everything_dead=False)
    assert [each for each in ours(warm) if each.kind == "warm"] == []


@pytest.mark.slow
def test_with_a_fresh_one_for_each_test_and_keeping(warm: Project) -> None:
    warm.write("test_it.py", SUITE + "    def test_b():\n        test_a()\n        assert 0\n")
    run(warm, "-k", "test_a", "--env-fresh=test")
    result = warm.run("--env-reuse", "--env-fresh=test", "--env-keep=always", alone=False)
    assert WARM in result.out
    assert result.line == "1 failed, 1 passed"
    assert len(re.findall("kept envpar-kept-", result.out)) == 2
    for command in re.findall(r"  remove: +(docker rm.*)", result.out):
        subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True, timeout=90)
    assert [each for each in ours(warm) if each.state != "cache"] == []


@pytest.mark.parametrize(
    ("lines", "top", "told"),
    [
        (["[stages.qa.services.db]", 'image = "{image}"', 'command = ["sleep", "600"]'], "", "its services"),
        pytest.param([], 'source = "copy"', "the project is copied", marks=pytest.mark.slow),
        pytest.param(['volumes = ["/data"]'], "", "it has volumes of its own", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_wait_says_so(warm: Project, lines: list[str], top: str, told: str) -> None:
    given = [line.format(image=warm.image) for line in lines]
    warm.stage(f'image = "{warm.image}"', *given, top=top)
    warm.write("test_it.py", "def test_a(): pass\n")
    result = run(warm)
    assert f"envpar: stage qa: no warm container: {told}" in result.err
    assert waiting(warm) == []


def test_with_workers_it_is_refused(project: Project) -> None:
    module("xdist")
    project.run("--env-reuse", "-n", "2").refused("--env-reuse and -n contradict each other", "hint: ")
