"""The same on Podman: a run, copy-on-write, a death, Ctrl-C, removal."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .projects import Project

pytestmark = pytest.mark.engine


def test_a_run_with_deaths(podman_project: Project) -> None:
    project = podman_project
    project.stage(top='artifacts = ["out/*"]')
    project.write(
        "test_it.py",
        """
        import os, pathlib, time
        def test_writes():
            pathlib.Path("stray").write_text("inside only")
            pathlib.Path("out").mkdir()
            pathlib.Path("out", "kept").write_text("brought back")
        def test_dies(): os.kill(os.getpid(), 9)
        def test_sees(): assert pathlib.Path("stray").read_text() == "inside only"
        def test_fails(): assert [1, 2] == [1, 3]
        """,
    )
    result = project.run("-v")
    assert result.code == 1
    assert result.counts == {"passed": 2, "failed": 2}
    assert "podman" in result.text
    assert "source overlay" in result.text
    assert "killed by signal 9 (SIGKILL)" in result.text
    assert "At index 1 diff: 2 != 3" in result.text
    assert not (project.root / "stray").exists()
    assert (project.root / "out" / "kept").read_text() == "brought back"


def test_memory_limit(podman_project: Project) -> None:
    podman_project.stage('memory = "64m"')
    podman_project.write(
        "test_it.py",
        """
        def test_eats():
            hold = []
            while True:
                hold.append(bytearray(1 << 20))
        def test_after(): pass
        """,
    )
    result = podman_project.run()
    assert result.code == 1
    assert result.counts == {"failed": 1, "passed": 1}
    assert "cause: killed: memory limit 64 MiB" in result.text


def test_what_tests_leave(podman_project: Project) -> None:
    podman_project.write(
        "test_it.py",
        """
        import os, pathlib, shutil, subprocess
        def test_creates(): pathlib.Path("/tmp/flag").write_text("1")
        def test_changes(): pathlib.Path("/etc/profile").write_text("1")
        def test_deletes(): os.remove("/etc/issue")
        def test_child(): subprocess.run(["sh", "-c", "mkdir /opt/a && echo 1 > /opt/a/b"], check=True)
        def test_folder(): shutil.rmtree("/etc/skel")
        def test_of_the_project(): pathlib.Path("made").touch()
        def test_of_memory(): pathlib.Path("/dev/shm/made").touch()
        def test_cleans_up(): pathlib.Path("/srv/x").touch(); os.remove("/srv/x")
        def test_dies(): pathlib.Path("/srv/late").touch(); os._exit(1)
        def test_meets(): assert not pathlib.Path("/tmp/flag").exists()
        """,
    )
    result = podman_project.run("-v", "--env-pollution")
    assert result.code == 1
    assert result.counts == {"failed": 2, "passed": 8}
    for line in (
        "test_it.py::test_creates: created 1",
        "  + /tmp/flag",
        "test_it.py::test_changes: changed 1",
        "  ~ /etc/profile",
        "  - /etc/issue",
        "test_it.py::test_child: created 2",
        "  + /opt/a/b",
        "test_it.py::test_folder: deleted 4",
        f"  + {podman_project.root}/made",
        "  + /dev/shm/made",
        "test_it.py::test_dies (its worker died): created 1",
        "  + /srv/late",
        "test_it.py::test_meets failed and its failure names /tmp/flag, which test_it.py::test_creates created",
    ):
        assert f"\n{line}\n" in result.text, result.text
    assert "test_cleans_up: " not in result.text
    assert "not attributed" not in result.text
    assert "not all of it is known" not in result.text


def test_removed_from_outside(podman_project: Project) -> None:
    project = podman_project
    project.write(
        "test_it.py",
        """
        import os, time
        def test_held():
            os.write(1, b"now held")
            time.sleep(100)
        def test_after(): pass
        """,
    )
    run = project.start("-s")
    run.wait_for("now held")
    (container,) = project.containers()
    project.engine.remove_container(container.id)
    result = run.end().clean()
    assert result.code == 1
    assert result.counts == {"failed": 1, "passed": 1}
    assert "removed from outside" in result.text
    assert project.left() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals(podman_project: Project, number: signal.Signals) -> None:
    project = podman_project
    project.write(
        "test_it.py",
        """
        import os, time
        def test_held():
            os.write(1, b"now held")
            time.sleep(1000)
        """,
    )
    run = project.start("-s")
    run.wait_for("now held")
    at = run.signal(number)
    result = run.end().clean()
    assert time.monotonic() - at < 30
    assert result.code == (2 if number == signal.SIGINT else 143)
    assert project.left() == []


def test_kill_9_of_the_host(podman_project: Project) -> None:
    project = podman_project
    project.write(
        "test_it.py",
        """
        import os, time
        def test_held():
            os.write(1, b"now held")
            time.sleep(1000)
        """,
    )
    run = project.start("-s")
    run.wait_for("now held")
    run.process.kill()
    run.end()
    deadline = time.monotonic() + 60
    while any(each.status == "running" for each in project.containers()):
        assert time.monotonic() < deadline, "the container goes on"
        time.sleep(0.2)
    project.write("test_it.py", "def test_a(): pass\n")
    assert project.start().end().clean().code == 0
    project.until_swept()


@pytest.mark.parametrize("place", ["host", "stage"])
def test_containers_as_fixtures(podman_project: Project, place: str) -> None:
    podman_project.stage()
    podman_project.write(
        "test_it.py",
        """
        import os
        def test_it(qa_container, envpar_containers):
            assert qa_container.exec(["cat"], input=b"x").stdout == b"x"
            here = os.path.abspath(__file__)
            assert "test_it" in qa_container.read_text(here)
            qa_container.exec(["sh", "-c", "echo > " + here], check=True)
            qa_container.write("/etc/app.conf", "x")
            assert [(str(each.path), each.kind) for each in qa_container.changes()] == [("/etc/app.conf", "added")]
            assert len(envpar_containers.start_many(3, "qa")) == 3
        """,
    )
    if place == "stage":
        result = podman_project.run()
        assert result.code == 0, result.text
    else:
        command = [sys.executable, "-m", "pytest", "-q"]
        done = subprocess.run(
            command,
            cwd=podman_project.root,
            env=podman_project.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert podman_project.left() == []
    assert "test_it" in (podman_project.root / "test_it.py").read_text()
