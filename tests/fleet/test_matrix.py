"""One run over several stages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .projects import Project

pytestmark = pytest.mark.engine

SUITE = """
    import sys, pytest
    @pytest.mark.parametrize("n", range(3))
    def test_a(n): pass
    def test_version(): assert sys.version_info >= (3, 12)
    @pytest.mark.env_only("qa")
    def test_only(): pass
    class TestC:
        def test_b(self): pass
"""


def test_one_verdict_over_two_stages(project: Project) -> None:
    project.write("test_it.py", SUITE)
    result = project.run("--env=dev,qa", "--junitxml=junit.xml", "-rfs").ended(
        1, "1 failed, 10 passed, 1 skipped"
    )
    assert "envpar: stage dev, image envpar-base:py3.13" in result.out
    assert "envpar: stage qa, image envpar-base:py3.11" in result.out
    assert "collected 12 items" in result.out
    # Test by test, so that stages keep step; the file is named once.
    assert "test_it.py .......Fs..." in result.out
    assert "FAILED test_it.py::test_version@qa" in result.out
    assert "_ test_version@qa _" in result.out
    assert result.section("parity")[:7] == [
        "dev     qa      test",
        "passed  FAILED  test_it.py::test_version",
        "",
        "1 of 6 tests ends differently",
        "stage  passed  failed  elsewhere",
        "dev    5       0       1",
        "qa     5       1       0",
    ]
    cases = project.junit()
    assert len(cases) == 12
    assert cases["test_it.test_a[1]@qa"].find("properties/property[@name='stage'][@value='qa']") is not None
    assert cases["test_it.test_version@qa"].find("failure") is not None
    assert cases["test_it.test_version@dev"].find("failure") is None
    assert (project.root / "envpar.lock").read_text(encoding="utf-8").count("envpar-base") >= 2


def test_ids_that_are_shown_are_taken(project: Project) -> None:
    project.write("test_it.py", SUITE)
    result = project.run("--env=dev,qa", "-v", "test_it.py::test_a[1]@qa", "test_it.py::TestC::test_b@dev")
    result.ended(0, "2 passed")
    assert "test_it.py::test_a[1]@qa PASSED" in result.out
    assert "test_it.py::TestC::test_b@dev PASSED" in result.out
    # What one stage alone was asked for is no difference between them.
    assert "no test of 2 ends differently" in result.out
    assert (
        "stage dev" not in project.run("--env=dev,qa", "test_it.py::test_version@qa").ended(1, "1 failed").out
    )
    project.run("--env=dev,qa", "--deselect=test_it.py::test_version@qa").ended(
        0, "10 passed, 1 skipped, 1 deselected"
    )


def test_last_failed_of_each_stage(project: Project) -> None:
    project.write("test_it.py", SUITE)
    project.run("--env=all").ended(1)
    result = project.run("--env=dev,qa", "--lf", "-v")
    assert result.ended(1).line.startswith("1 failed"), result.text
    assert "test_it.py::test_version@qa FAILED" in result.out
    assert "qa: run-last-failure: rerun previous 1 failure" in result.out
    project.write("test_it.py", SUITE.replace(">= (3, 12)", ">= (3, 9)"))
    project.run("--env=dev,qa", "--lf").ended(0)
    project.run("--env=dev,qa", "--lf").ended(0, "11 passed, 1 skipped")


def test_stepwise_keeps_a_place_per_stage(project: Project) -> None:
    project.write("test_it.py", SUITE)
    project.run("--env=dev,qa", "--sw").ended(2, "1 failed, 8 passed, 1 skipped")
    result = project.run("--env=dev,qa", "--sw", "-v").ended(2)
    assert "test_it.py::test_version@qa FAILED" in result.out
    assert "test_it.py::test_a[0]@qa" not in result.out
    assert "test_it.py::test_a[0]@dev PASSED" in result.out
    # A run of one stage has a place of its own.
    project.run("--env=qa", "--sw").ended(2, "1 failed, 3 passed")


def test_a_stage_that_cannot_start_fails_its_own_tests(project: Project) -> None:
    project.configure("dev", "qa", broken='image = "envpar-base:nope"\npull = "never"')
    project.write("test_it.py", SUITE)
    result = project.run("--env=dev,broken,qa", "--junitxml=junit.xml")
    result.ended(1, "1 failed, 10 passed, 1 skipped, 6 errors")
    assert "envpar: stage broken could not be started: " in result.out
    assert "ERROR test_it.py::test_a[0]@broken - stage broken could not be started" in result.out
    # A stage that is not there is no difference of its tests.
    assert "1 of 6 tests ends differently" in result.out
    case = project.junit()["test_it.test_a[2]@broken"]
    error = case.find("error")
    assert error is not None
    assert "envpar-base:nope" in (error.text or "")
    assert case.find("properties/property[@name='stage']") is not None


def test_no_stage_can_start(project: Project) -> None:
    project.configure(
        one='image = "envpar-base:nope"\npull = "never"', two='image = "envpar-base:no"\npull = "never"'
    )
    project.write("test_it.py", SUITE)
    result = project.run("--env=one,two").ended(4)
    assert "envpar-base:nope" in result.err
    assert "envpar-base:no" in result.err


def test_the_others_go_on_where_one_cannot_collect(project: Project) -> None:
    project.write(
        "test_it.py",
        "import sys\nif sys.version_info < (3, 12): import nothing_like_this\ndef test_a(): pass",
    )
    project.write("test_two.py", "def test_b(): pass")
    result = project.run("--env=dev,qa").ended(1, "2 passed, 1 error")
    assert "ERROR test_it.py@qa" in result.out
    assert "envpar: qa: 1 test was not run: 1 error during its collection" in result.out
    assert "passed  -      test_it.py::test_a" in result.out
    assert (
        project.run("--env=dev,qa", "nope.py").ended(4).text.count("file or directory not found: nope.py")
        == 2
    )
    project.write("test_it.py", "import nothing_like_this")
    assert "Interrupted: 2 errors during collection" in project.run("--env=dev,qa").ended(2).out


def test_maxfail_counts_over_all_stages(project: Project) -> None:
    project.write("test_it.py", "def test_a(): assert 0\ndef test_b(): assert 0\ndef test_c(): pass\n")
    result = project.run("--env=dev,qa", "-x", "-v").ended(1, "1 failed")
    assert "test_it.py::test_a@dev FAILED" in result.out
    assert "stopping after 1 failures" in result.out
    project.run("--env=dev,qa", "--maxfail=3").ended(1, "3 failed")


def test_a_stage_that_another_one_stops_has_the_last_word(project: Project) -> None:
    project.write(
        "conftest.py",
        """
        import sys, time
        def pytest_terminal_summary(terminalreporter):
            if sys.version_info < (3, 12): time.sleep(1.5)  # more than an interrupt may take to be met
            terminalreporter.write_line("said by %d.%d" % sys.version_info[:2])
        """,
    )
    project.write(
        "test_it.py",
        """
        import pytest, sys, time
        def test_a(): assert sys.version_info < (3, 12)
        @pytest.mark.parametrize("n", range(40))
        def test_b(n): time.sleep(0.5)
        """,
    )
    result = project.run("--env=dev,qa", "-x").ended(1, "1 failed")
    assert "said by 3.13" in result.out
    assert "said by 3.11" in result.out


def test_death_of_one_stages_worker(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import os, sys
        def test_a(): pass
        def test_b():
            if sys.version_info < (3, 12): os._exit(7)
        def test_c(): pass
        """,
    )
    result = project.run("--env=dev,qa", "--junitxml=junit.xml").ended(1, "1 failed, 5 passed")
    assert "test_it.py::test_b@qa crashed the worker of stage qa" in result.out
    stages = [case.find("properties/property[@name='stage']") for case in project.junit().values()]
    assert [found.get("value") for found in stages if found is not None] == ["dev", "qa"] * 3
    assert "passed  FAILED  test_it.py::test_b" in result.out


def test_an_exit_in_one_stage_ends_that_stage(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import sys, pytest
        def test_a():
            if sys.version_info < (3, 12): pytest.exit("enough", returncode=9)
        def test_b(): pass
        """,
    )
    result = project.run("--env=dev,qa").ended(9, "2 passed, 1 error")
    assert "stage qa has ended before this test: enough" in result.out


def test_ctrl_c_ends_all_stages(project: Project) -> None:
    project.write("test_it.py", "import time\ndef test_a(): pass\ndef test_b(): time.sleep(600)\n")
    run = project.start("--env=dev,qa", "-v")
    run.wait_for("test_a@qa", "test_b@dev")
    run.process.send_signal(signal.SIGINT)
    result = project.end(run).ended(2)
    assert "KeyboardInterrupt" in result.out
    assert "2 passed" in result.line


def test_more_stages_than_run_at_once(project: Project) -> None:
    more = {f"s{number}": 'extends = "qa"' for number in range(4)}
    project.configure("dev", "qa", **more)
    project.write(
        "test_it.py", "import pytest\n@pytest.mark.parametrize('n', range(5))\ndef test_a(n): pass\n"
    )
    result = project.run("--env=all", "-q").ended(0)
    assert result.line.startswith("30 passed")
    assert project.run("--env=all", "--co", "-q").ended(0).out.count("@s3") == 5


def test_what_a_stage_leaves_is_told_for_each(project: Project) -> None:
    project.configure("dev", "qa", top='artifacts = ["out/*.txt"]')
    project.write(
        "test_it.py",
        """
        import os, pathlib, sys
        def test_a():
            os.makedirs("out", exist_ok=True)
            pathlib.Path("out/version.txt").write_text("%d.%d" % sys.version_info[:2])
            if sys.version_info < (3, 12): pathlib.Path("/left").write_text("x")
        """,
    )
    result = project.run("--env=dev,qa").ended(0, "2 passed")
    assert "envpar: dev: drift: suite left nothing behind in the container" in result.out
    assert "envpar: qa: drift: suite left 1 " in result.out
    folder = project.root / "envpar-artifacts"
    assert (folder / "dev/out/version.txt").read_text(encoding="utf-8") == "3.13"
    assert (folder / "qa/out/version.txt").read_text(encoding="utf-8") == "3.11"


def test_listing_of_all_stages(project: Project) -> None:
    project.write("test_it.py", "def test_a(): pass\n")
    result = project.run("--env=dev,qa", "--co").ended(0, "2 tests collected")
    assert result.out.count("<Stage dev>") == result.out.count("<Stage qa>") == 1
    listed = project.run("--env=dev,qa", "--fixtures", "-q").ended(0).out
    assert "envpar: stage dev" in listed
    assert "envpar: stage qa" in listed


def test_matrix_for_ci(project: Project) -> None:
    def ask(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest_envpar", "matrix", *args],
            cwd=project.root,
            env={**project.environ},
            capture_output=True,
            text=True,
            check=False,
        )

    done = ask()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout) == {
        "version": 1,
        "include": [
            {"stage": "dev", "args": "--env=dev", "image": "envpar-base:py3.13", "platform": None},
            {"stage": "qa", "args": "--env=qa", "image": "envpar-base:py3.11", "platform": None},
        ],
    }
    assert ask("qa", "--format=text").stdout == "qa  envpar-base:py3.11  --env=qa\n"
    wrong = ask("qaa")
    assert wrong.returncode == 2
    assert 'did you mean "qa"?' in wrong.stderr


@pytest.mark.parametrize("asked", ["dev,,qa", ",", "dev,"])
def test_a_name_is_missing(project: Project, asked: str) -> None:
    assert "needs the name of a stage" in project.run(f"--env={asked}").ended(4).err
