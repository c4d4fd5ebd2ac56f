"""Coverage of stages: measured inside, with the numbers and the words of a local run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.containers.sweep import list_ours

from .projects import IMAGES, Project

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.engine

PACKAGE = """
import os
import sys


def sign(x):
    if x > 0:
        return "plus"
    elif x < 0:
        return "minus"
    return "zero"


def newest():
    if sys.version_info >= (3, 12):
        return True
    return False


def never():
    return 1
"""
TESTS = """
import importlib.util
import pytest
from pkg import newest, sign


def test_plus():
    assert sign(1) == "plus"


def test_minus(no_cover):
    assert sign(-1) == "minus"


def test_newest():
    assert newest() in (True, False)


def test_the_image_has_none():
    assert importlib.util.find_spec("coverage") is None
    with pytest.raises(ImportError):
        import coverage
"""


GRAMMAR = """
import contextlib
import functools


@contextlib.contextmanager
def managed():
    yield 1


def leaves(stop):
    for _ in range(2):
        with managed() as a, managed(
        ):
            if stop:
                continue
        print(a)
    with managed():
        if stop:
            return 1
    return 2


@functools.lru_cache(
    maxsize=None,
)
def decorated(
    x,
    y=1,
):
    return (
        x
        + y
    )


def forever(n):
    while True:
        n -= 1
        if n < 0:
            break
    return n


def constant():
    if __debug__:
        x = 1
    while 0:
        x = 2
    return x


def tries(kind):
    try:
        if kind:
            raise KeyError
    except KeyError:
        x = 1
    except (
        ValueError,
        TypeError,
    ):
        x = 2
    else:
        x = 3
    finally:
        y = 4
    return [
        x
        for z in (x, y)
        if z
    ]
"""
MATCH = """
def kind(x):
    match x:
        case [a, *_] if (
            a
        ):
            return "list"
        case int() | float():
            pass
        case _:
            return "other"
    match x:
        case 2:
            x = 3
    return x
"""
GRAMMAR_TESTS = """
import sys
from pkg import grammar


def test_grammar():
    grammar.leaves(True), grammar.leaves(False), grammar.decorated(1), grammar.forever(1)
    grammar.constant(), grammar.tries(0), grammar.tries(1)
    if sys.version_info >= (3, 10):
        from pkg import match
        match.kind([1]), match.kind(1)
"""


@pytest.fixture
def measured(project: Project) -> Project:
    """A project with a package of which its tests run a part."""
    project.configure("dev", "qa", "old")
    project.write("pkg/__init__.py", PACKAGE)
    project.write("pkg/unused.py", "x = 1\n")
    project.write("test_it.py", TESTS)
    return project


def command(project: Project, module: str, *args: str) -> str:
    """What a command of this machine's Python writes."""
    words = [sys.executable, "-m", module, *args]
    ended = subprocess.run(
        words, cwd=project.root, env=project.environ, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in ended.stderr
    return ended.stdout


def local(project: Project, *args: str) -> str:
    """The same suite without a stage, but for the test that is about the image."""
    words = ("-p", "no:envpar", "--deselect=test_it.py::test_the_image_has_none", *args)
    return command(project, "pytest", *words)


def files(project: Project) -> dict[str, Any]:
    """What the JSON report says of each file, line for line."""
    report = json.loads((project.root / "coverage.json").read_text())
    wanted = ("executed_lines", "missing_lines", "executed_branches", "missing_branches", "summary")
    return {
        name: {key: value for key, value in each.items() if key in wanted}
        for name, each in report["files"].items()
    }


def table(text: str) -> list[str]:
    """The section of the terminal report."""
    lines = text.splitlines()
    (first,) = (number for number, line in enumerate(lines) if " tests coverage " in line)
    shown = [
        line for line in lines[first:] if not line.startswith(("envpar:", "=")) and "platform" not in line
    ]
    return [line for line in shown if "test_it" not in line]


def contexts(project: Project) -> set[str]:
    """All contexts of the data file."""
    import coverage

    data = coverage.CoverageData(str(project.root / ".coverage"))
    data.read()
    return set(data.measured_contexts())


REPORTS = [f"--cov-report={kind}" for kind in ("term-missing", "json", "xml", "html", "lcov")]


def test_all_reports_as_in_a_local_run(measured: Project) -> None:
    args = ("--cov=pkg", "--cov-branch", *REPORTS)
    here = local(measured, *args)
    expected = files(measured)
    lcov = (measured.root / "coverage.lcov").read_text()
    xml = classes(measured)
    for name in ("coverage.json", "coverage.xml", "coverage.lcov", ".coverage"):
        (measured.root / name).unlink()
    shutil.rmtree(measured.root / "htmlcov")
    there = measured.run("--env=qa", *args).ended(0, "4 passed")
    if sys.version_info[:2] == (3, 11):
        assert table(there.out) == table(here)
        assert files(measured) == expected
        assert (measured.root / "coverage.lcov").read_text() == lcov
        assert classes(measured) == xml
    assert "coverage: platform linux, python 3.11." in there.out
    assert files(measured)["pkg/__init__.py"]["missing_lines"] == [9, 10, 11, 16, 21]
    assert files(measured)["pkg/unused.py"]["summary"]["percent_covered"] == 0
    assert len(list((measured.root / "htmlcov").glob("*.html"))) >= 3


@pytest.mark.slow
def test_another_python_inside(project: Project) -> None:
    """3.11 and 3.13 run the same lines as the Python here; 3.9 runs none that has a constant condition."""
    project.configure(*IMAGES)
    for name, text in (("__init__", ""), ("grammar", GRAMMAR), ("match", MATCH)):
        project.write(f"pkg/{name}.py", text)
    project.write("test_it.py", GRAMMAR_TESTS)
    args = ("--cov=pkg", "--cov-branch", "--cov-report=json")
    local(project, *args)
    here = files(project)
    assert here["pkg/match.py"]["executed_branches"]
    for stage in ("dev", "qa"):
        project.run(f"--env={stage}", *args).ended(0, "1 passed")
        assert files(project) == here, stage
    project.run("--env=old", *args).ended(0, "1 passed")
    grammar, old = here["pkg/grammar.py"], files(project)["pkg/grammar.py"]
    lines = ("", *GRAMMAR.splitlines()[1:])
    more = [line for line in old["missing_lines"] if line not in grammar["missing_lines"]]
    assert [lines[line - 1].strip() for line in more] == ["while True:", "if __debug__:", "while 0:"]
    assert set(old["executed_lines"]) == set(grammar["executed_lines"]) - set(more)
    other = {tuple(arc) for key in ("executed_branches", "missing_branches") for arc in old[key]}
    assert other == {tuple(arc) for key in ("executed_branches", "missing_branches") for arc in grammar[key]}
    gone = [arc for arc in grammar["executed_branches"] if arc not in old["executed_branches"]]
    assert all({*arc} & {*more} for arc in gone)


def classes(project: Project) -> list[str]:
    """The files and lines of the XML report."""
    root = ET.parse(project.root / "coverage.xml").getroot()
    return [ET.tostring(each, encoding="unicode") for each in root.iter("class")]


def test_stages_are_combined_and_contexts_tell_them_apart(measured: Project) -> None:
    """Only both together reach both branches of what depends on the Python."""
    args = ("--cov=pkg", "--cov-report=json", "--cov-report=term", "--cov-context=test")
    ran = measured.run("--env=dev,qa", *args, "--cov-fail-under=66").ended(0, "8 passed")
    assert files(measured)["pkg/__init__.py"]["missing_lines"] == [9, 10, 11, 21]
    assert re.search(r" stage dev, platform linux, python 3\.13\.\d+-final-0 ", ran.out), ran.text
    assert re.search(r" stage qa, platform linux, python 3\.11\.\d+-final-0 ", ran.out), ran.text
    assert {"dev", "qa", "dev|test_it.py::test_plus|run", "qa|test_it.py::test_plus|run"} <= contexts(
        measured
    )
    assert "dev|test_it.py::test_minus|run" not in contexts(measured)
    ran = measured.run("--env=dev,qa", "--cov=pkg", "--cov-report=", "--cov-fail-under=68").ended(
        1, "8 passed"
    )
    assert "FAIL Required test coverage of 68" in ran.out


@pytest.mark.slow
def test_several_stages_with_workers(measured: Project) -> None:
    args = ("--env=dev,qa", "-n2", "--cov=pkg", "--cov-report=json", "--cov-report=term")
    measured.run(*args).ended(0, "8 passed")
    assert files(measured)["pkg/__init__.py"]["missing_lines"] == [9, 10, 11, 21]
    assert {"dev", "qa"} <= contexts(measured)


def test_workers_of_xdist(measured: Project) -> None:
    ran = measured.run("--env=qa", "-n2", "--cov=pkg", "--cov-branch", "--cov-report=json").ended(0)
    assert files(measured)["pkg/__init__.py"]["missing_lines"] == [9, 10, 11, 16, 21], ran.text
    assert ran.line == "4 passed"


@pytest.mark.slow
def test_a_new_container_for_each_test(measured: Project) -> None:
    ran = measured.run("--env=qa", "--env-fresh=test", "--cov=pkg", "--cov-report=json").ended(0, "4 passed")
    assert files(measured)["pkg/__init__.py"]["missing_lines"] == [9, 10, 11, 16, 21], ran.text
    assert "not complete" not in ran.out


@pytest.mark.slow
def test_by_the_command(measured: Project) -> None:
    """`envpar run` begins to start the container before pytest has read the command line."""
    args = ("run", "--env=qa", "--cov=pkg", "--cov-report=json")
    ended = command(measured, "pytest_envpar", *args)
    assert "4 passed" in ended
    assert files(measured)["pkg/__init__.py"]["missing_lines"] == [9, 10, 11, 16, 21]
    measured.write("pytest.ini", "[pytest]\naddopts = --cov=pkg --cov-report=json\n")
    (measured.root / "coverage.json").unlink()
    assert "4 passed" in command(measured, "pytest_envpar", "run", "--env=qa")
    assert files(measured)["pkg/__init__.py"]["missing_lines"] == [9, 10, 11, 16, 21]


DIES = """
import os
import time
from pkg import sign


def test_plus():
    assert sign(1) == "plus"
    time.sleep(0.2)


def test_dies():
    os._exit(9)


def test_zero():
    assert sign(0) == "zero"
"""


@pytest.mark.parametrize("more", [(), pytest.param(("-n1",), marks=pytest.mark.slow)], ids=["alone", "xdist"])
def test_what_ran_before_a_worker_died_counts(measured: Project, more: tuple[str, ...]) -> None:
    measured.write("test_it.py", DIES)
    ran = measured.run("--env=qa", "--cov=pkg", "--cov-report=json", *more).ended(1, "1 failed, 2 passed")
    assert files(measured)["pkg/__init__.py"]["missing_lines"] == [10, 15, 16, 17, 21]
    assert "envpar: coverage: the data of stage qa is not complete: 1 of 2 workers did not end" in ran.out


def test_failures_that_end_the_run(measured: Project) -> None:
    """The same reports as locally, or none, as the pytest-cov at hand has it."""
    measured.write(
        "test_it.py", "from pkg import sign\ndef test_a():\n    assert not sign(1)\ndef test_b(): pass\n"
    )
    args = ("-x", "--cov=pkg")
    here = local(measured, *args)
    there = measured.run("--env=qa", *args).ended(1)
    assert (" tests coverage " in there.out) == (" tests coverage " in here), there.text


def test_nothing_ran(measured: Project) -> None:
    """Every file is at none; and where there was no session, nothing is reported."""
    measured.write("test_it.py", "def test_it(): pass\n")
    ran = measured.run("--env=qa", "--cov=pkg", "--cov-report=term", "--cov-config=none.ini").ended(4)
    assert "coverage: Couldn't read 'none.ini' as a config file" in ran.err
    ran = measured.run("--env=qa", "--cov=./pkg", "--cov-branch", "--cov-report=json").ended(0, "1 passed")
    assert {each["summary"]["covered_lines"] for each in files(measured).values()} == {0}
    assert len(files(measured)) == 2
    ran = measured.run("--env=qa", "--cov=pkg", "missing.py").ended(4)
    assert "missing.py" in ran.err
    assert "overage" not in ran.out + ran.err


def test_switched_off(measured: Project) -> None:
    ran = measured.run("--env=qa", "--cov=pkg", "--no-cov", "--cov-fail-under=100").ended(0, "4 passed")
    assert "TOTAL" not in ran.out
    assert "Coverage disabled via --no-cov switch!" in ran.out
    assert not (measured.root / ".coverage").exists()


def test_appended(measured: Project) -> None:
    measured.run("--env=qa", "--cov=pkg", "--cov-report=", "-k", "plus").ended(0)
    measured.run("--env=dev", "--cov=pkg", "--cov-append", "--cov-report=json", "-k", "newest").ended(0)
    assert files(measured)["pkg/__init__.py"]["missing_lines"] == [9, 10, 11, 17, 21]
    ran = measured.run("--env=qa", "--cov=pkg", "--cov-append", "--cov-branch", "--cov-report=").ended(1)
    assert "envpar: coverage: no data: Can't add branch measurements to existing line data" in ran.out


CHILDREN = """
import multiprocessing
import subprocess
import sys
import pkg


def test_child():
    code = "import pkg; print(pkg.sign(-1))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "minus\\n"


def test_spawned():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(pkg.sign, [0]) == ["zero"]
        pool.close()
        pool.join()
"""


def test_children_are_measured_where_the_configuration_says_so(measured: Project) -> None:
    """Also with another path inside, a copy of the sources, an older Python, and a configuration of another name."""
    measured.configure("old", "qa", top='source = "copy"', old='workdir = "/elsewhere/src"')
    measured.write("test_it.py", CHILDREN)
    children = "patch = subprocess\nconcurrency = multiprocessing, thread\n"
    measured.write("settings.ini", f"[run]\nsource = pkg\nbranch = true\n{children}")
    args = ("--cov", "--cov-config=settings.ini", "--cov-report=json")
    measured.run("--env=old", *args).ended(0, "2 passed")
    assert files(measured)["pkg/__init__.py"]["missing_lines"] == [8, 15, 16, 17, 21]
    measured.write("settings.ini", "[run]\nsource = pkg\nbranch = true\n")
    measured.run("--env=qa", *args).ended(0, "2 passed")
    assert files(measured)["pkg/__init__.py"]["missing_lines"] == [7, 8, 9, 10, 11, 15, 16, 17, 21]


class TestWithoutPytestCov:
    def test_by_the_configuration(self, measured: Project) -> None:
        measured.configure("qa", top="coverage = true")
        settings = "[run]\nbranch = true\nsource = pkg\n[report]\nfail_under = {}\nshow_missing = true\n"
        measured.write(".coveragerc", settings.format(90))
        suite = TESTS.replace("(no_cover)", "()")
        measured.write("test_it.py", suite)
        ran = measured.run("-p", "no:pytest_cov", "--env=qa").ended(1, "4 passed")
        assert "pkg/__init__.py" in ran.out
        assert re.search(r"FAIL Required coverage of 90% not reached\. Total coverage: \d\d\.\d\d%", ran.out)
        shown = ran.section("coverage")[:6]
        report = command(measured, "coverage", "report")
        assert report.splitlines()[:6] == shown, "the data file is what coverage.py works with"
        if sys.version_info[:2] == (3, 11):
            words = ("-p", "no:envpar", "-p", "no:pytest_cov")
            command(measured, "coverage", "run", "-m", "pytest", "-q", *words)
            assert command(measured, "coverage", "report") == report
        measured.write(".coveragerc", settings.format(20))
        ran = measured.run("-p", "no:pytest_cov", "--env=qa", "-q").ended(0)
        assert "Required coverage of 20% reached" in ran.out
        ran = measured.run("-p", "no:pytest_cov", "--env=qa", "--cov=pkg").ended(4)
        assert (
            "--cov=pkg: the configuration says coverage = true, and pytest-cov is not on this side" in ran.err
        )

    def test_the_option_is_then_for_the_inside(self, measured: Project) -> None:
        ran = measured.run("-p", "no:pytest_cov", "--env=qa", "--cov=pkg").ended(4)
        assert "unrecognized arguments: --cov=pkg" in ran.err

    def test_what_coverage_does_not_like(self, measured: Project) -> None:
        measured.configure("qa", top="coverage = true")
        measured.write(".coveragerc", "[run]\nplugins = no_such_plugin\n")
        ran = measured.run("--env=qa").ended(4)
        assert (
            "coverage.py cannot measure inside: ModuleNotFoundError: No module named 'no_such_plugin'"
            in ran.err
        )


@pytest.fixture
def own(measured: Project) -> Iterator[Project]:
    """A stage whose image has coverage.py 6.5, pytest-cov 4.1, and an installed copy of the package."""
    wheels = measured.root / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version=3.11", "--implementation=cp", "--abi=cp311"]
    command += ["--platform=manylinux2014_x86_64", "--platform=manylinux_2_17_x86_64"]
    ended = subprocess.run(
        [*command, f"--dest={wheels}", "coverage==6.5.0", "pytest-cov==4.1.0"],
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        if os.environ.get("CI"):
            pytest.fail(ended.stderr)
        pytest.skip(ended.stderr[-300:])
    site = measured.root / "image/site"
    for wheel in wheels.iterdir():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    shutil.copytree(measured.root / "pkg", site / "pkg")
    measured.write("image/Dockerfile", f"FROM {IMAGES['qa']}\nCOPY site /usr/lib/python3/dist-packages/\n")
    measured.configure(own='build = { context = "image" }\nnetwork = "none"')
    yield measured
    for each in list_ours(measured.engine):
        if each.type == "image" and Path(each.project) == measured.root:
            with contextlib.suppress(Exception):
                measured.engine.remove_image(each.name)


def test_the_coverage_of_the_image_and_a_copy_in_the_image(own: Project) -> None:
    """Its own coverage.py measures, its pytest-cov does not; files outside of the project are told, and mapped where
    [paths] says so."""
    own.write("tests/test_it.py", TESTS[: TESTS.index("def test_the_image")])
    (own.root / "test_it.py").unlink()
    own.write(
        "tests/test_version.py",
        "import coverage\ndef test_it():\n    assert coverage.__version__ == '6.5.0'\n",
    )
    shutil.move(own.root / "pkg", own.root / "src_pkg")
    args = ("--env=own", "tests", "--cov=pkg", "--cov-branch", "--cov-report=json", "--cov-report=term")
    ran = own.run(*args).ended(0, "4 passed")
    assert "left out, because not of the project: /usr/lib/python3/dist-packages/pkg/__init__.py" in ran.out
    own.write(".coveragerc", "[paths]\nsource =\n    src_pkg\n    /usr/lib/python3/dist-packages/pkg\n")
    ran = own.run(*args).ended(0, "4 passed")
    assert files(own)["src_pkg/__init__.py"]["missing_lines"] == [9, 10, 11, 16, 21], ran.text
    assert "left out" not in ran.out
    assert ran.out.count("coverage: platform linux") == 1


@pytest.mark.slow
def test_a_slow_tracer_is_told(measured: Project, tmp_path: Path) -> None:
    """pip brings nothing for the image's Python, so that only the tracer in Python is left."""
    if sys.version_info[:2] == (3, 13):
        pytest.skip("the tracer of this machine serves the image")
    ran = measured.run(
        "--env=dev",
        "--cov=pkg",
        "--cov-branch",
        "--cov-report=json",
        PIP_NO_INDEX="1",
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    ).ended(0, "4 passed")
    assert (
        "envpar: coverage: stage dev was measured by the slow tracer, in Python: none in C serves" in ran.out
    )
    assert files(measured)["pkg/__init__.py"]["missing_lines"] == [9, 10, 11, 17, 21]
