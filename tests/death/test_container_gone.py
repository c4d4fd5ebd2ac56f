"""The container or the engine goes away in the middle of a run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_envpar.engine.api import Engine

    from .projects import Project

pytestmark = pytest.mark.engine

SUITE = """
import os, time
def test_before(): pass
def test_held():
    os.write(1, b"now held")
    time.sleep(float(os.environ.get("HOLD", "100")))
def test_after(): pass
def test_last(): pass
"""


def _remove(engine: Engine, container: str) -> None:
    engine.remove_container(container)


def _kill(engine: Engine, container: str) -> None:
    engine.kill(container)


def _terminate(engine: Engine, container: str) -> None:
    engine.kill(container, "TERM")


@pytest.mark.parametrize(
    ("act", "cause"),
    [
        (_remove, "the container was removed from outside"),
        (_kill, "the container was killed from outside (exit code 137, signal 9)"),
        (_terminate, "killed by signal 15 (SIGTERM), because the container was stopped from outside"),
    ],
)
def test_the_running_test_is_told_and_the_rest_goes_on(
    project: Project, act: Callable[[Engine, str], None], cause: str
) -> None:
    project.write("test_it.py", SUITE)
    run = project.start("-s", "-v")
    run.wait_for("now held")
    (container,) = project.containers()
    act(project.engine, container.id)
    result = run.end().clean()
    assert result.code == 1
    assert result.counts == {"passed": 3, "failed": 1}
    assert "test_it.py::test_held crashed the worker of stage qa" in result.text
    assert f"cause: {cause}" in result.text
    assert result.cases()["test_held"] == "failure"
    assert project.left() == []


def test_a_container_that_goes_when_all_tests_have_run(project: Project) -> None:
    project.write("test_it.py", "def test_a(): pass\n")
    project.write(
        "conftest.py",
        """
        import os, time
        def pytest_sessionfinish():
            os.write(1, b"now ending")
            time.sleep(100)
        """,
    )
    run = project.start("-s")
    run.wait_for("now ending")
    (container,) = project.containers()
    project.engine.remove_container(container.id)
    result = run.end().clean()
    assert result.code == 1
    assert result.counts == {"passed": 1}
    assert "crashed the worker of stage qa" in result.text
    assert "removed from outside" in result.text
    assert project.left() == []


def test_an_engine_that_ends_ends_the_run(podman_project: Project, tmp_path: Path) -> None:
    """A service of our own stands for a daemon: everybody else's goes on."""
    project = podman_project
    program = shutil.which("podman")
    assert program
    # A short path: a socket's has 108 bytes at most.
    folder = Path(f"/tmp/envpar-gone-{os.getpid()}")
    folder.mkdir()
    url = f"unix://{folder}/s"
    service = subprocess.Popen(
        [program, "system", "service", "--time=0", url], env=project.environ, start_new_session=True
    )
    try:
        project.write("test_it.py", SUITE)
        while not (folder / "s").exists():
            assert service.poll() is None
        run = project.start("-s", "-v", f"--env-engine={url}")
        run.wait_for("now held")
        os.killpg(service.pid, signal.SIGKILL)
        service.wait()
        result = run.end(30).clean()
        assert result.code == 3
        assert "test_it.py::test_held crashed the worker of stage qa" in result.text
        assert "the engine does not answer" in result.text
        assert "no fresh worker for stage qa; 2 tests were not run" in result.text
        assert result.counts == {"passed": 1, "failed": 1}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(service.pid, signal.SIGKILL)
        service.wait()
        shutil.rmtree(folder)
