"""Several stages in one run, spread over workers of pytest-xdist."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from rig.needs import module

module("xdist")

if TYPE_CHECKING:
    from .projects import Project

pytestmark = pytest.mark.engine

CONFTEST = """
    import os, pytest
    @pytest.fixture(scope="session")
    def server():
        with open("/server", "x"): pass  # once, although a worker goes from stage to stage
        yield os.getpid()
        os.unlink("/server")
"""
SUITE = """
    import os, sys, pytest
    @pytest.fixture(scope="module")
    def table(server):
        with open("/table-of-" + __name__, "x"): pass
        yield
        os.unlink("/table-of-" + __name__)
    @pytest.mark.parametrize("n", range(6))
    def test_a(n, table, server): assert os.getpid() == server
    def test_version(): assert sys.version_info >= (3, 12)
    @pytest.mark.env_only("qa")
    def test_only(server): pass
    class TestC:
        def test_b(self, table): assert os.environ["PYTEST_XDIST_WORKER"] in ("gw0", "gw1")
"""
# Two files, so that fixtures of a module have to go before the other file is run.
FILES = ("test_one.py", "test_two.py")
LINE = "2 failed, 32 passed, 2 skipped"
PARITY = [
    "dev     qa      test",
    "passed  FAILED  test_one.py::test_version",
    "passed  FAILED  test_two.py::test_version",
    "",
    "2 of 18 tests end differently",
    "stage  passed  failed  elsewhere",
    "dev    16      0       2",
    "qa     16      2       0",
]


def test_all_stages_over_all_workers(project: Project) -> None:
    project.write("conftest.py", CONFTEST)
    for name in FILES:
        project.write(name, SUITE)
    result = project.run("--env=dev,qa", "-n2", "--junitxml=junit.xml", "-rfs").ended(1, LINE)
    assert "envpar: stage dev, image envpar-base:py3.13" in result.out
    assert "envpar: stage qa, image envpar-base:py3.11" in result.out
    assert "2 workers [36 items]" in result.out
    assert result.section("parity")[: len(PARITY)] == PARITY
    assert "FAILED test_one.py::test_version@qa" in result.out
    # The Python of the stage, not the one that drives the worker.
    assert "linux -- Python 3.11." in result.out
    assert "envpar: dev: drift: suite left nothing behind in the container" in result.out
    assert result.err.count("envpar: locked stage qa") == 1
    cases = project.junit()
    assert len(cases) == 36
    stage = cases["test_two.test_a[1]@dev"].find("properties/property[@name='stage']")
    assert stage is not None
    assert stage.get("value") == "dev"
    again = project.run("--env=dev,qa", "-n2", "--lf").ended(1)
    assert again.line.startswith("2 failed"), again.text
    assert "dev" not in again.section("short test summary info")[0]


@pytest.mark.parametrize(
    "mode",
    [
        "each",
        *(
            pytest.param(mode, marks=pytest.mark.slow)
            for mode in ("loadgroup", "loadscope", "loadfile", "worksteal", "load")
        ),
    ],
)
def test_modes_of_distribution(mode: str, project: Project) -> None:
    grouped = (
        'def test_version(): assert 1\n    @pytest.mark.xdist_group("together")\n    def test_group(): pass'
    )
    project.write("conftest.py", CONFTEST)
    for name in FILES:
        project.write(name, SUITE.replace("def test_version(): assert sys.version_info >= (3, 12)", grouped))
    result = project.run("--env=dev,qa", "-n2", f"--dist={mode}", "-v").ended(0)
    assert result.line == ("76 passed, 4 skipped" if mode == "each" else "38 passed, 2 skipped")
    assert "no test of 20 ends differently" in result.out
    for worker in ("gw0", "gw1"):
        assert f"[{worker}]" in result.out


def test_fixtures_of_a_file_go_before_the_next_one(project: Project) -> None:
    """Also where a worker has been to another stage in between, and what they say is told of the right test."""
    project.write(
        "test_one.py",
        """
        import os, pytest
        @pytest.fixture(scope="module", autouse=True)
        def table():
            yield
            print("said at the end")
            open("/gone", "w").close()
            assert 0, "no way to end this"
        def test_a(): pass
        """,
    )
    project.write("test_two.py", "import os\ndef test_b(): assert os.path.exists('/gone')\n")
    # One after the other in both stages: a@dev, a@qa, b@dev, b@qa.
    project.write(
        "order.py",
        """
        import pytest
        @pytest.hookimpl(tryfirst=True)
        def pytest_collection_modifyitems(items): items.sort(key=lambda item: item.nodeid)
        """,
    )
    result = project.run("--env=dev,qa", "-n1", "-p", "order")
    result.ended(1, "4 passed, 2 errors")
    assert "ERROR at teardown of test_a@dev" in result.out
    assert "ERROR at teardown of test_a@qa" in result.out
    assert result.out.count("Captured stdout teardown") == 2


def test_a_stage_that_cannot_start_fails_its_own_tests(project: Project) -> None:
    project.configure("dev", "qa", broken='image = "envpar-base:nope"\npull = "never"')
    project.write("test_it.py", "def test_a(): pass\ndef test_b(): pass\n")
    result = project.run("--env=dev,broken,qa", "-n2").ended(1, "4 passed, 2 errors")
    assert "envpar: stage broken could not be started: " in result.out
    assert "ERROR test_it.py::test_a@broken - stage broken could not be started" in result.out
    assert "no test of 2 ends differently" in result.out


@pytest.mark.slow
def test_no_stage_can_start(project: Project) -> None:
    project.write("test_it.py", "def test_a(): pass\n")
    project.configure(
        one='image = "envpar-base:nope"\npull = "never"', two='image = "envpar-base:no"\npull = "never"'
    )
    result = project.run("--env=one,two", "-n2").ended(4)
    assert "envpar-base:nope" in result.err
    assert "envpar-base:no" in result.err


DEADLY = """
    import os, sys, pytest
    @pytest.mark.parametrize("n", range(6))
    def test_n(n):
        if n == 3 and sys.version_info < (3, 12): os._exit(7)
"""


def test_death_in_one_stage(project: Project) -> None:
    project.write("test_it.py", DEADLY)
    result = project.run("--env=dev,qa", "-n2", "--junitxml=junit.xml").ended(1, "1 failed, 11 passed")
    assert "test_it.py::test_n[3]@qa crashed the worker of stage qa" in result.out
    found = project.junit()["test_it.test_n[3]@qa"].find("properties/property[@name='stage']")
    assert found is not None
    assert found.get("value") == "qa"
    assert "passed  FAILED  test_it.py::test_n[3]" in result.out


@pytest.mark.slow
def test_early_ends(project: Project) -> None:
    project.write("test_it.py", DEADLY)
    result = project.run("--env=dev,qa", "-n2", "--max-worker-restart=0")
    assert result.code in (1, 2), result.text
    assert "failed" in result.line
    result = project.run("--env=dev,qa", "-n2", "-x")
    assert result.code in (1, 2), result.text
    assert "stopping after 1 failures" in result.out
    assert (
        "file or directory not found: nope.py" in project.run("--env=dev,qa", "-n2", "nope.py").ended(4).text
    )


@pytest.mark.slow
def test_errors_of_one_stages_collection(project: Project) -> None:
    project.write(
        "test_it.py",
        "import sys\nif sys.version_info < (3, 12): import nothing_like_this\ndef test_a(): pass",
    )
    project.write("test_two.py", "def test_b(): pass")
    result = project.run("--env=dev,qa", "-n2").ended(1, "2 passed, 1 error")
    assert "ERROR test_it.py@qa" in result.out
    assert "envpar: qa: 1 test was not run: 1 error during its collection" in result.out


@pytest.mark.slow
def test_as_many_processes_as_allowed(project: Project) -> None:
    project.write("test_it.py", "def test_a(): pass\n")
    result = project.run("--env=all", "-n", "auto", "--maxprocesses=1").ended(0, "2 passed")
    assert "1 worker [2 items]" in result.out
    assert "worker" not in project.run("--env=all", "-n0").ended(0, "2 passed").out


@pytest.mark.slow
def test_ctrl_c(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import pytest, time
        @pytest.mark.parametrize("n", range(8))
        def test_n(n): time.sleep(600 if n else 0)
        """,
    )
    run = project.start("--env=dev,qa", "-n2", "-v")
    run.wait_for("PASSED")
    # As a terminal does: to all processes of the group.
    os.killpg(run.process.pid, signal.SIGINT)
    result = project.end(run, may_trace=True)
    assert result.code == 2, result.text
    # What was not run for that reason is no difference between stages.
    assert "no test of 1 ends differently" in result.out
