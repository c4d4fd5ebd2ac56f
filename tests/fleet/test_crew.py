"""pytest-xdist: each of its workers drives a container of its own."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from rig.needs import module

from pytest_envpar.worker.agent import crew

module("xdist")

if TYPE_CHECKING:
    from pathlib import Path

    from .projects import Project

pytestmark = pytest.mark.engine

SUITE = """
    import os, pytest, warnings
    class OwnWarning(UserWarning): pass
    @pytest.fixture(scope="module")
    def server(): yield os.getpid()
    @pytest.mark.parametrize("n", range(12))
    def test_n(n, server): assert os.getpid() == server
    def test_who():
        assert os.environ["PYTEST_XDIST_WORKER"] in ("gw0", "gw1")
        assert os.environ["PYTEST_XDIST_WORKER_COUNT"] == "2"
    def test_config(request): assert request.config.workerinput["workerid"] == os.environ["PYTEST_XDIST_WORKER"]
    def test_warns(): warnings.warn(OwnWarning("careful"))
    def test_fails(): assert {"a": 1} == {"a": 2}
    @pytest.mark.skip(reason="not today")
    def test_skipped(): pass
    @pytest.mark.xfail
    def test_xfails(): assert 0
    def test_teardown(request):
        def end(): assert 0
        request.addfinalizer(end)
"""
LINE = "1 failed, 16 passed, 1 skipped, 1 xfailed, 1 warning, 1 error"


def test_same_outcomes_as_in_one_container(project: Project) -> None:
    project.write("test_it.py", SUITE)
    result = project.run("--env=qa", "-n", "2", "--junitxml=junit.xml").ended(1, LINE)
    assert "envpar: stage qa, image envpar-base:py3.11" in result.out
    assert "2 workers [19 items]" in result.out
    assert "OwnWarning: careful" in result.out
    # The Python of the inside, not the one that drives it.
    assert "linux -- Python 3.11." in result.out
    assert "/tmp/" not in next(line for line in result.out.splitlines() if line.startswith("[gw"))
    assert "envpar: drift: suite left nothing behind in the container" in result.out
    assert len(project.junit()) == 19
    assert result.err.count("envpar: locked stage qa") == 1


@pytest.mark.parametrize(
    "mode",
    [
        "loadgroup",
        *(
            pytest.param(mode, marks=pytest.mark.slow)
            for mode in ("each", "loadscope", "loadfile", "worksteal")
        ),
    ],
)
def test_modes_of_distribution(mode: str, project: Project) -> None:
    project.write(
        "test_a.py",
        """
        import pytest
        @pytest.mark.parametrize("n", range(6))
        def test_n(n): pass
        @pytest.mark.xdist_group("together")
        def test_one(): pass
        @pytest.mark.xdist_group("together")
        def test_two(): pass
        """,
    )
    project.write("test_b.py", "def test_b(): pass\n")
    result = project.run("--env=qa", "-n2", f"--dist={mode}", "-v").ended(0)
    assert result.line == ("18 passed" if mode == "each" else "9 passed")


@pytest.mark.slow
def test_sixteen_workers(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import os, pytest, time
        @pytest.mark.parametrize("n", range(160))
        def test_n(n): time.sleep(0.1)
        """,
    )
    result = project.run("--env=qa", "-n16", "-v").ended(0, "160 passed")
    assert "16 workers [160 items]" in result.out
    for number in range(16):
        assert f"[gw{number}]" in result.out


def test_a_checkout_beside_this_one(project: Project, tmp_path: Path) -> None:
    """A gateway of pytest-xdist that works in another folder, as one to another machine does."""
    project.write("test_it.py", "import os\ndef test_a(): print('in', os.getcwd())\n")
    far = tmp_path / "far"
    shutil.copytree(project.root, far)
    result = project.run("--env=qa", "-d", "--tx", f"popen//chdir={far}", "-rP").ended(0, "1 passed")
    assert f"in {far}" in result.out


def test_no_more_processes_than_allowed(project: Project) -> None:
    project.write("test_it.py", "def test_a(): pass\ndef test_b(): pass\n")
    result = project.run("--env=qa", "-n", "auto", "--maxprocesses=1").ended(0, "2 passed")
    assert "1 worker [2 items]" in result.out
    assert "worker" not in project.run("--env=qa", "-n0").ended(0, "2 passed").out


def test_options_of_ini_files_stay_outside(project: Project) -> None:
    """The image has no pytest-xdist, to which ``-n`` would be an error."""
    project.write("pytest.ini", "[pytest]\naddopts = -n 2 --dist loadfile --max-worker-restart=3\n")
    project.write("test_it.py", "def test_a(): pass\n")
    assert "2 workers [1 item]" in project.run("--env=qa").ended(0, "1 passed").out
    project.run("--env=qa", "-n0").ended(0, "1 passed")
    project.run("--env=qa", "--co", "-q").ended(0)


def test_death_inside_a_worker(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import os, pytest
        @pytest.mark.parametrize("n", range(8))
        def test_n(n):
            if n == 3: os._exit(7)
        """,
    )
    result = project.run("--env=qa", "-n2").ended(1, "1 failed, 7 passed")
    assert "test_it.py::test_n[3] crashed the worker of stage qa" in result.out
    assert "exit code 7" in result.out
    result = project.run("--env=qa", "-n2", "--max-worker-restart=0")
    assert result.code in (1, 2), result.text
    assert "failed" in result.line
    assert "worker" in result.out


def test_first_failure_ends_the_run(project: Project) -> None:
    project.write(
        "test_it.py", "import pytest\n@pytest.mark.parametrize('n', range(30))\ndef test_n(n): assert 0\n"
    )
    result = project.run("--env=qa", "-n2", "-x")
    assert result.code in (1, 2), result.text
    assert "stopping after 1 failures" in result.out


def test_errors_are_told_once_and_clearly(project: Project) -> None:
    project.write("test_it.py", "def test_a(): pass\n")
    assert "file or directory not found: nope.py" in project.run("--env=qa", "-n2", "nope.py").ended(4).text
    project.write("test_it.py", "import nothing_like_this")
    result = project.run("--env=qa", "-n2").ended(1)
    assert "No module named 'nothing_like_this'" in result.out
    project.configure("qa", broken='image = "envpar-base:nope"\npull = "never"')
    result = project.run("--env=broken", "-n2").ended(4)
    assert result.err.count("envpar-base:nope") <= 2
    result = project.run("--env=qa", "-d", "--tx", "ssh=nowhere").ended(4)
    assert "--tx ssh=nowhere//chdir=/path/to/it" in result.err


def test_without_it_on_the_host(project: Project) -> None:
    project.write("test_it.py", "def test_a(): pass\n")
    result = project.run("--env=qa", "-p", "no:xdist", "-n2").ended(4)
    assert "unrecognized arguments: -n2" in result.err
    with pytest.raises(pytest.UsageError, match="in the image and not on the host"):
        crew.distribute_nothing(argparse.Namespace(numprocesses=2), by_host=False)


def test_ctrl_c(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import pytest, time
        @pytest.mark.parametrize("n", range(8))
        def test_n(n): time.sleep(600 if n else 0)
        """,
    )
    run = project.start("--env=qa", "-n2", "-v")
    run.wait_for("PASSED")
    # As a terminal does: to all processes of the group.
    os.killpg(run.process.pid, signal.SIGINT)
    result = project.end(run, may_trace=True)
    assert result.code == 2, result.text
    assert "KeyboardInterrupt" in result.out


def test_started_as_a_module_or_not(project: Project) -> None:
    """Whether the working directory is importable is the controller's to say."""
    project.write("pytest.ini", "[pytest]\naddopts = --import-mode=importlib\n")
    project.write("beside.py", "")
    project.write("tests/test_it.py", "def test_a(): import beside\n")
    project.run("--env=qa", "-n2").ended(0, "1 passed")


def test_by_the_tolerant_start(project: Project) -> None:
    project.write("test_it.py", "def test_a(): pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest_envpar", "run", "--env=qa", "-n2"],
        cwd=project.root,
        env=project.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 workers [1 item]" in done.stdout
