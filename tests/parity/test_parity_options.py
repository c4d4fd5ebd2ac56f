"""One command line after the other: what a stage run prints is what a local run prints."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from . import sample
from . import twin as twins

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, base_image: str) -> twins.Twin:
    """The sample, twice."""
    return twins.Twin.of(tmp_path_factory.mktemp("parity"), lambda side: sample.write(side, image=base_image))


CASES = [
    "",
    "-v",
    "-vv",
    "-q",
    "-qq",
    "-rA",
    "-rA -q",
    "-x",
    "--maxfail=2",
    "-k fail",
    "-k 'not fail and not TestUnit' -v",
    "-m slow -v",
    "-m 'not slow' -q",
    "-s",
    "-s -v",
    "--capture=tee-sys",
    "--capture=sys",
    "--tb=short",
    "--tb=line",
    "--tb=native",
    "--tb=no",
    "--tb=long",
    "-l --tb=short",
    "--show-capture=no",
    "--durations=3 --durations-min=100 -k pass",
    "--co",
    "--co -q",
    "--co -qq",
    "--co -v",
    "--co -k pass",
    "-p no:cacheprovider",
    "-p no:terminal",
    "-p no:warnings",
    "-p no:logging",
    "-p no:doctest",
    "-o addopts= -o console_output_style=count",
    "-o console_output_style=classic",
    "-W error",
    "-W ignore",
    "--disable-warnings",
    "--deselect tests/test_plain.py::test_pass --deselect=tests/test_fixtures.py -v",
    "--ignore=tests/test_plain.py",
    "--ignore-glob=*fix*",
    "tests/test_plain.py::test_pass",
    "tests/test_plain.py::test_param[same] tests/test_plain.py::TestClass::TestInner -v",
    "{root}/tests/test_fixtures.py",
    "tests/test_fixtures.py tests/test_plain.py::test_pass tests/test_fixtures.py::test_colour",
    "tests/no_such.py",
    "tests/test_plain.py::no_such_test",
    "--no-such-option",
    "--shop-mode",
    "-k 'not ('",
    "--strict-config",
    "--junitxml=result.xml",
    "--junitxml=result.xml -o junit_family=xunit1 -o junit_logging=all",
    "--junitxml={root}/result.xml --junit-prefix=pre -k 'pass or fail'",
    "--color=yes",
    "--color=yes -v -k 'warn or fail'",
    "--code-highlight=no --color=yes -k fail",
    "--pyargs shop.price --doctest-modules",
    "--doctest-modules shop",
    "--setup-show -k colour",
    "--setup-only -k colour",
    "--setup-plan -k colour",
    "--fixtures -q",
    "--fixtures-per-test tests/test_fixtures.py",
    "-o log_cli=true -o log_cli_level=INFO -k output",
    "--log-level=ERROR -k output",
    "--shop-mode plain --shop-fast -k mode -v",
    "--shop-mode=other -k mode",
    "-- tests/test_fixtures.py",
    "broken",
    "broken --continue-on-collection-errors",
    "broken/test_import_error.py",
    "broken/test_import_error.py broken/test_syntax_error.py broken/test_fine.py --tb=short",
    "broken/test_import_error.py broken/test_fine.py --continue-on-collection-errors",
    "broken/test_exit_at_import.py",
    "broken/test_bad_marker.py",
    "broken/test_import_error.py --co",
    "ends/test_exit.py",
    "ends/test_exit.py -v",
    "ends/test_keyboard.py",
    "ends/test_system_exit.py",
    "ends/test_exit_at_import.py",
    "ends/test_stop.py",
    "ends/test_should_fail.py",
    "-k nothing_matches",
    "--no-header",
    "--no-summary",
    "--no-header -v -k pass",
    "--import-mode=importlib tests/test_fixtures.py",
    "-c pyproject.toml tests/test_fixtures.py",
    "--rootdir={root} tests/test_fixtures.py",
    "--basetemp=base-temporary -k test_method",
    "--xfail-tb -k xfail",
    "--runxfail -k xfail",
    "--markers",
    "--cache-show",
    "--version",
    "--verbosity=2 -k pass",
    "--noconftest tests/test_fixtures.py -o usefixtures=",
    "--assert=plain -k assert",
    "--debug-no-such",
    "--stepwise -k fail",
    "-p no:faulthandler -k pass",
    "--force-short-summary -k fail -q",
]


# A mid-size choice for each run; all of them with ENVPAR_FULL=1 (``tox -e full``).
DAILY = frozenset(
    (
        "",
        "-v",
        "-qq",
        "-rA",
        "--maxfail=2",
        "-k 'not fail and not TestUnit' -v",
        "-s",
        "--tb=short",
        "--durations=3 --durations-min=100 -k pass",
        "--co -q",
        "-p no:terminal",
        "-W error",
        "tests/test_plain.py::test_param[same] tests/test_plain.py::TestClass::TestInner -v",
        "tests/test_plain.py::no_such_test",
        "--no-such-option",
        "-k 'not ('",
        "--junitxml=result.xml -o junit_family=xunit1 -o junit_logging=all",
        "--color=yes",
        "--doctest-modules shop",
        "--setup-show -k colour",
        "--fixtures -q",
        "-o log_cli=true -o log_cli_level=INFO -k output",
        "--shop-mode plain --shop-fast -k mode -v",
        "-- tests/test_fixtures.py",
        "broken",
        "broken/test_import_error.py broken/test_fine.py --continue-on-collection-errors",
        "ends/test_exit.py",
        "ends/test_keyboard.py",
        "ends/test_should_fail.py",
        "-k nothing_matches",
    )
)


@pytest.mark.parametrize(
    "line",
    [pytest.param(line, marks=() if line in DAILY else pytest.mark.full) for line in CASES],
)
def test_same_output(project: twins.Twin, line: str) -> None:
    project.fresh()
    same(project, line)


def same(project: twins.Twin, line: str, cwd: str = ".", by: str = "option") -> twins.Ended:
    """Run ``line`` on both sides and require that they end alike; returns how the stage run ended."""
    left, right = project.run(*shlex.split(line), cwd=cwd, by=by)
    found = twins.difference(left, right)
    assert not found, f"\n{line}\n{found}"
    return right


@pytest.mark.parametrize(
    "lines",
    [
        ["-k 'fail or pass' -q", "--lf -q", "--lf --lfnf=none -k pass -q", "--ff -q -k 'pass or compare'"],
        pytest.param(["-k pass -q", "--nf -q --co"], marks=pytest.mark.full),
        ["--sw -q", "--sw -q", "--sw --sw-skip -q"],
        pytest.param(["--lf -v"], marks=pytest.mark.full),
        pytest.param(["-x -q", "--lf --co -q"], marks=pytest.mark.full),
        pytest.param(
            ["broken/test_import_error.py broken/test_fine.py -q", "--lf broken -q"], marks=pytest.mark.full
        ),
    ],
)
def test_same_memory_of_earlier_runs(project: twins.Twin, lines: list[str]) -> None:
    project.fresh()
    for line in lines:
        same(project, line)


@pytest.mark.parametrize(
    "line", ["-q", "test_fixtures.py", "../tests/test_plain.py::test_pass ../shop --doctest-modules"]
)
def test_same_output_from_a_subdirectory(project: twins.Twin, line: str) -> None:
    project.fresh()
    same(project, line, cwd="tests")


def test_stage_named_in_the_environment(project: twins.Twin) -> None:
    project.fresh()
    same(project, "-k pass", by="addopts")


def test_stage_named_in_ini_addopts(project: twins.Twin) -> None:
    project.fresh()
    file = project.sides[1] / "pyproject.toml"
    before = file.read_text(encoding="utf-8")
    file.write_text(before.replace("--strict-markers", "--strict-markers --env dev"), encoding="utf-8")
    try:
        right = same(project, "-k pass", by="none")
    finally:
        file.write_text(before, encoding="utf-8")
    assert "envpar: stage dev" in right.raw


OWN_ENV = """
def pytest_addoption(parser):
    parser.addoption("--env", action="store", default="none")
"""


@pytest.fixture(scope="module")
def project_with_env(tmp_path_factory: pytest.TempPathFactory, base_image: str) -> twins.Twin:
    """A project whose conftest has an ``--env`` of its own."""

    def write(side: Path) -> None:
        (side / "conftest.py").write_text(OWN_ENV, encoding="utf-8")
        (side / "test_it.py").write_text(
            "import os\n\ndef test_env(request):\n    print(request.config.getoption('--env'))\n"
            "    assert request.config.getoption('--env') == 'mine'\n",
            encoding="utf-8",
        )
        (side / "envpar.toml").write_text(
            f'[stages.dev]\nimage = "{base_image}"\nnetwork = "none"\n', encoding="utf-8"
        )

    return twins.Twin.of(tmp_path_factory.mktemp("own"), write)


@pytest.mark.parametrize("line", ["--env=mine -rP", "--env mine -rP", "--env=other", "-q"])
def test_own_env_option_without_a_stage(project_with_env: twins.Twin, line: str) -> None:
    same(project_with_env, line, by="none")


def test_own_env_option_with_the_long_form(project_with_env: twins.Twin) -> None:
    left, _ = project_with_env.run("--env=mine", "-rP", by="none")
    _, right = project_with_env.run("--envpar-stage=dev", "--env=mine", "-rP", by="none")
    assert not twins.difference(left, right)
    assert "1 passed" in right.out
