"""The engine goes away and comes back in the middle of a run."""

from __future__ import annotations

import contextlib
import re
import signal
from typing import TYPE_CHECKING

import pytest
from rig.engines import DOCKER

from pytest_envpar.engine.select import Candidate, connect

from .projects import Project
from .proxies import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .daemons import Daemon

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


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A way to Docker."""
    with contextlib.closing(Proxy(DOCKER.removeprefix("unix://"))) as made:
        yield made


def test_a_connection_that_is_lost_costs_one_test(project: Project, proxy: Proxy) -> None:
    project.write("test_it.py", SUITE)
    run = project.start("-s", "-v", f"--env-engine={proxy.url}")
    run.wait_for("now held")
    proxy.drop()
    result = run.end(60).clean()
    assert result.code == 1, result.text
    assert result.counts == {"passed": 3, "failed": 1}
    assert "test_it.py::test_held crashed the worker of stage qa" in result.text
    # Who asks just then what became of the container meets a connection that is being closed as well.
    assert re.search("cause: the (connection to the container was lost|engine does not answer)", result.text)
    assert project.left() == []


def test_an_engine_that_comes_back_too_late(project: Project, proxy: Proxy) -> None:
    project.write("test_it.py", SUITE)
    run = project.start("-s", "-v", f"--env-engine={proxy.url}")
    run.wait_for("now held")
    proxy.cut()
    result = run.end(60).clean()
    assert result.code == 3
    assert result.counts == {"passed": 1, "failed": 1}
    assert "cause: the engine does not answer" in result.text
    assert "no fresh worker for stage qa; 2 tests were not run" in result.text
    # Nobody could remove it; the next run does, of whatever project.
    assert {each.state for each in project.left()} <= {"dead"}
    proxy.mend()
    project.write("test_it.py", "def test_a(): pass\n")
    assert project.start(f"--env-engine={proxy.url}").end().clean().code == 0
    project.until_swept()


def test_a_plain_run_with_container_fixtures(project: Project, proxy: Proxy) -> None:
    """Calls fail with an error of ours, and what is started when the engine is back works."""
    project.write(
        "test_it.py",
        """
        import os, pathlib, time, pytest, pytest_envpar
        def until(name):
            while not pathlib.Path(name).exists():
                time.sleep(0.02)
        def test_cut(qa_container):
            assert qa_container.exec(["true"]).ok
            os.write(1, b"now held")
            until("cut")
            with pytest.raises(pytest_envpar.EngineError):
                qa_container.exec(["true"])
            os.write(1, b"now lost")
            until("mended")
        def test_mended(qa_container):
            assert qa_container.exec(["true"]).ok
        """,
    )
    run = project.start("-s", f"--env-engine={proxy.url}", stage=None)
    run.wait_for("now held")
    proxy.cut()
    project.write("cut", "")
    run.wait_for("now lost")
    proxy.mend()
    project.write("mended", "")
    result = run.end(60).clean()
    assert result.counts == {"passed": 2}, result.text
    # Nobody could remove the first one; the next run does.
    assert {each.state for each in project.left()} <= {"dead"}
    assert project.start("-k", "mended").end().clean().code == 0
    project.until_swept()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_daemon_that_is_started_again(
    project: Project, daemon: Daemon, tmp_path: Path, number: signal.Signals
) -> None:
    engine = connect(Candidate("docker", daemon.url), project.environ)
    with (
        contextlib.closing(engine),
        contextlib.closing(
            Project(tmp_path / "there", project.image, engine, daemon.url, project.environ)
        ) as there,
    ):
        there.stage('runtime = "noting"')
        there.write("test_it.py", SUITE)
        run = there.start("-s", "-v")
        run.wait_for("now held")
        assert (tmp_path / "called").exists()
        daemon.signal(number)
        daemon.start()
        result = run.end(90).clean()
        assert result.code in (1, 3)
        assert "test_it.py::test_held crashed the worker of stage qa" in result.text
        if result.code == 1:
            assert result.counts == {"passed": 3, "failed": 1}
        else:
            assert result.counts == {"passed": 1, "failed": 1}
            assert "no fresh worker for stage qa; 2 tests were not run" in result.text
        there.write("test_it.py", "def test_a(): pass\n")
        assert there.run().code == 0
        assert there.left() == []
