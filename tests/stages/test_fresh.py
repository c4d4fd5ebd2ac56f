"""``--env-fresh``: a container of its own for each module or test, and everything else as before."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from rig.needs import module

from pytest_envpar.containers.sweep import list_ours, prune

if TYPE_CHECKING:
    from .projects import Project

pytestmark = pytest.mark.engine

SUITE = """
    import os, pathlib, pytest
    HERE = pathlib.Path("/var/tmp/been-here")
    @pytest.fixture(scope="session", autouse=True)
    def session():
        assert not pathlib.Path("/var/tmp/session").exists()
        pathlib.Path("/var/tmp/session").touch()
    @pytest.fixture(scope="module")
    def module(): return os.urandom(8)
    def been():
        with HERE.open("a") as file: file.write("x")
        return len(HERE.read_text())
    def test_one(module): assert been() == 1
    def test_two(module): assert been() == EXPECTED
    class TestC:
        @pytest.mark.parametrize("n", ["::", "a[b]"])
        def test_n(self, n): pathlib.Path("artifact-" + os.urandom(8).hex()).touch()
"""


def suite(project: Project, expected: int) -> None:
    project.write("test_a.py", SUITE.replace("EXPECTED", str(expected)))
    project.write("test_b.py", SUITE.replace("EXPECTED", str(expected)))


@pytest.mark.parametrize(
    ("scope", "expected"), [pytest.param("test", 1, marks=pytest.mark.slow), ("module", 2)]
)
def test_each_has_a_container_of_its_own(project: Project, scope: str, expected: int) -> None:
    project.stage(top='artifacts = ["artifact-*"]')
    suite(project, expected)
    result = project.run(
        f"--env-fresh={scope}", "-v", "--junitxml=junit.xml", "--durations=3", "--durations-min=0"
    ).ok()
    assert result.line == "8 passed"
    shown = re.findall(r"^(test_\S+) PASSED", result.out, re.MULTILINE)
    cases = [case.get("name") for case in ET.parse(project.root / "junit.xml").getroot().iter("testcase")]
    assert [name.split("::", 1)[1].replace("TestC::", "") for name in shown] == cases
    assert [name.split("::")[0] for name in shown] == ["test_a.py"] * 4 + ["test_b.py"] * 4
    # What each of them left is told and brought.
    assert (
        "drift: suite left 2 changes in the container: + /var/tmp/been-here, + /var/tmp/session" in result.out
    )
    assert sum(path.name.startswith("artifact-") for path in project.root.iterdir()) == 4
    assert "4 artifacts brought back" in result.out
    assert len(re.findall(r"^\d[\d.]+s (?:setup|call|teardown) +test_", result.out, re.MULTILINE)) == 3


@pytest.mark.slow
def test_session_is_one_for_all(project: Project) -> None:
    project.write("test_a.py", SUITE.replace("EXPECTED", "2"))
    project.run("--env-fresh=session").ok()


FAILS = """
    import os, pytest
    def test_a(): assert not os.path.exists("/var/tmp/x")
    def test_b():
        open("/var/tmp/x", "w").close()
        assert False
    def test_c(): assert not os.path.exists("/var/tmp/x")
    def test_d(): assert False
    def test_e(): pass
"""


def test_failures_end_the_run_as_locally(project: Project) -> None:
    project.write("test_it.py", FAILS)
    fresh = "--env-fresh=test"
    result = project.run(fresh, "--maxfail=2", "-k", "not c")
    assert result.line == "2 failed, 1 passed, 1 deselected"
    assert "stopping after 2 failures" in result.out
    assert "not shown" not in result.out
    result = project.run(fresh, "-x", "--lf")
    assert result.line == "1 failed"
    assert "rerun previous 2 failures" in result.out
    assert "stopping after 1 failures" in result.out


def test_a_limit_of_failures_counts_over_modules(project: Project) -> None:
    code = "def test_a(): pass\ndef test_b(): assert False\ndef test_c(): pass\n"
    project.write("test_a.py", code)
    project.write("test_b.py", code)
    result = project.run("--env-fresh=module", "--maxfail=2")
    assert result.line == "2 failed, 3 passed"
    assert "not shown" not in result.out


def test_deaths(project: Project) -> None:
    project.write(
        "test_a.py",
        """
        import os, pathlib
        HERE = pathlib.Path("/var/tmp/here")
        def test_before(): HERE.touch()
        def test_dies(): os._exit(3)
        def test_after(): assert HERE.exists()
        """,
    )
    project.write("test_b.py", "import os\ndef test_b(): assert not os.path.exists('/var/tmp/here')\n")
    assert project.run("--env-fresh=module").line == "1 failed, 3 passed"
    result = project.run("--env-fresh=test", "-rA")
    assert result.line == "2 failed, 2 passed"
    assert "FAILED test_a.py::test_after" in result.out
    assert "exit code 3" in result.out


def test_the_end_of_a_session_counts(project: Project) -> None:
    project.write("test_it.py", "def test_a(): pass\ndef test_b(): pass\ndef test_c(): pass\n")
    project.write(
        "conftest.py",
        """
        import os, pytest
        def pytest_sessionfinish(session):
            if session.items[0].nodeid and os.path.exists("/var/tmp/b"): os._exit(5)
        def pytest_runtest_teardown(item):
            if item.name == "test_b": open("/var/tmp/b", "w").close()
        def pytest_terminal_summary(terminalreporter): terminalreporter.section("the same everywhere")
        """,
    )
    result = project.run("--env-fresh=test")
    assert result.code == 1, result.text
    assert result.line == "3 passed"
    assert "the end of the session crashed the worker of stage qa" in result.out
    assert result.out.count("the same everywhere") == 1


@pytest.mark.slow
def test_an_exit_of_one_is_that_of_all(project: Project) -> None:
    project.write("test_it.py", "import pytest\ndef test_a(): pytest.exit('enough', 9)\ndef test_b(): pass\n")
    assert project.run("--env-fresh=test").code == 9


@pytest.mark.slow
def test_with_several_stages(project: Project) -> None:
    project.write(
        "envpar.toml",
        project.root.joinpath("envpar.toml").read_text() + f'\n[stages.dev]\nimage = "{project.image}"\n',
    )
    project.write("test_it.py", FAILS)
    result = project.run("--env-fresh=test", stage="dev,qa")
    assert result.line == "4 failed, 6 passed"
    assert "no test of 5 ends differently" in result.out


@pytest.mark.slow
def test_with_workers(project: Project) -> None:
    module("xdist")
    suite(project, 1)
    result = project.run("--env-fresh=test", "-n", "2")
    assert result.line == "8 passed", result.text


@pytest.mark.slow
def test_what_failed_is_kept(project: Project) -> None:
    project.write("test_it.py", FAILS)
    try:
        result = project.run("--env-fresh=test", "--env-keep=failed", alone=False)
        found = re.findall(r"kept (\S+): test_it.py::test_(\w) failed", result.out)
        assert [test for _, test in found] == ["b", "d"]
        assert project.engine.exec(found[0][0], ["test", "-e", "/var/tmp/x"]).ok
        assert not project.engine.exec(found[1][0], ["test", "-e", "/var/tmp/x"]).ok
    finally:
        prune(project.engine, project=str(project.root))


def test_ctrl_c_removes_what_was_started_ahead(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import os, time
        def test_a():
            os.write(1, b"now held")
            time.sleep(1000)
        def test_b(): pass
        """,
    )
    process = subprocess.Popen(
        ["/usr/bin/env", "--default-signal=INT", sys.executable, "-m", "pytest", "-s", "--env=qa",
         "--env-fresh=test"],
        cwd=project.root,
        env={**project.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    seen = b""
    while b"now held" not in seen:
        piece = process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
        assert piece, seen
        seen += piece
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=90)
    assert process.returncode == 2, seen + rest
    left = [each for each in list_ours(project.engine) if each.project == str(project.root)]
    assert [each for each in left if each.state != "cache"] == []


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--env-fresh=class"], "--env-fresh=class: not one of session, module, test"),
        (["--env-fresh=test", "--sw"], "--env-fresh=test and --stepwise contradict each other"),
    ],
)
def test_what_makes_no_sense_is_refused(project: Project, args: list[str], told: str) -> None:
    project.write("test_it.py", "def test_a(): pass\n")
    project.run(*args).refused(told, "hint: " if "--sw" in args else "")
