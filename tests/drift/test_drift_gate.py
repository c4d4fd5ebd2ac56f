"""``--env-drift``: a run that fails although all of its tests passed."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from rig.hosts import SOURCE
from rig.needs import missing

from pytest_envpar.images.lockfile import read

from .projects import Project, deb

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_envpar.images.lockfile import Entry

pytestmark = pytest.mark.engine

FAILED = "envpar: drift gate failed (fail-on package): dev -> qa: 2 findings: 1 package, 1 config"


@pytest.fixture(scope="module")
def images(build: Callable[..., str]) -> dict[str, str]:
    """Two images that differ by a package and a variable."""
    return {
        "dev": build("gate-dev", deb("greet", "1.0", a="one"), "ENV APP_ENV=dev"),
        "qa": build("gate-qa", deb("greet", "1.1", a="two"), "ENV APP_ENV=qa"),
    }


@pytest.fixture
def suite(project: Project, images: dict[str, str]) -> Project:
    """A project with a passing test and a pair to compare."""
    project.write("test_it.py", "def test_it():\n    pass\n")
    project.stages('[drift]\ncompare = [["dev", "qa"]]', **images)
    return project


def last(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_the_gate_fails_a_run_without_a_stage(suite: Project) -> None:
    done = suite.pytest("--env-drift", "--junitxml=out.xml").exits(1, "1 passed", "= drift =")
    assert last(done.out).startswith(FAILED)
    assert "  package  greet 1.0 -> 1.1 (dpkg, 2 files)" in done.out
    cases = list(ET.parse(suite.root / "out.xml").iter("testcase"))
    assert [
        (case.get("classname"), case.get("name"), case.find("failure") is not None) for case in cases
    ] == [
        ("test_it", "test_it", False),
        ("envpar.drift", "dev..qa", True),
    ]


def test_the_gate_in_a_stage(suite: Project) -> None:
    done = suite.pytest("--env=dev", "--env-drift").exits(1, "1 passed")
    assert last(done.out).startswith(FAILED)


def test_a_failed_test_and_the_gate(suite: Project) -> None:
    suite.write("test_it.py", "def test_it():\n    assert False\n")
    assert last(suite.pytest("--env-drift").exits(1, "1 failed").out).startswith(FAILED)


def test_paths_behind_the_option_are_paths(suite: Project) -> None:
    suite.write("other/test_other.py", "def test_a():\n    pass\n\ndef test_b():\n    pass\n")
    suite.pytest("--env-drift", "other").exits(1, "2 passed")


def test_pairs_on_the_command_line_and_a_higher_bar(suite: Project, images: dict[str, str]) -> None:
    suite.pytest("--env-drift=dev..dev").exits(0, "dev -> dev: no differences")
    suite.stages('[drift]\nfail-on = "runtime"', **images)
    done = suite.pytest("--env-drift=dev..qa", "--env-drift=qa..dev", "--junitxml=out.xml").exits(
        0, "qa -> dev: 2 findings"
    )
    assert "gate failed" not in done.out
    assert len(list(ET.parse(suite.root / "out.xml").iter("testcase"))) == 3


def test_an_allowance_that_allows_nothing_is_found_when_all_pairs_are_compared(
    suite: Project, images: dict[str, str]
) -> None:
    table = """
    [drift]
    compare = [["dev", "qa"]]
    fail-on = "config"
    ignore  = []
    allow   = [{ package = "greet", reason = "rolling" }, { package = "tzdata", reason = "gone" }]
    """
    suite.stages(table, **images)
    suite.pytest("--env-drift").exits(1, "the allowance for tzdata (gone) allows nothing: remove it")
    assert "allows nothing" not in suite.pytest("--env-drift=dev..qa", "--env-drift=qa..dev").out.replace(
        "the allowance for tzdata (gone) allows nothing", ""
    )


def test_what_cannot_be_compared(suite: Project, images: dict[str, str]) -> None:
    # What a prefix says to be a container may still come up while the tests run.
    both = suite.pytest("--env-drift=dev..container:nothing", "--env-drift=dev..qa", "--junitxml=out.xml")
    # What can be compared is, and what cannot is no test that passed.
    both.exits(4, "1 passed", "dev -> qa: 2 findings", FAILED)
    report = ET.parse(suite.root / "out.xml").getroot()
    assert [(case.get("name"), [child.tag for child in case]) for case in report.iter("testcase")] == [
        ("test_it", []),
        ("dev..qa", ["failure"]),
        ("dev..container:nothing", ["error"]),
    ]
    suites = next(report.iter("testsuite"))
    assert (suites.get("tests"), suites.get("failures"), suites.get("errors")) == ("3", "1", "1")
    suite.pytest("--env-drift=dev").exits(4, "'dev' is no pair of environments")
    suite.stages(**images)
    suite.pytest("--env-drift").exits(4, "nothing says what to compare")


@pytest.mark.parametrize(
    ("pair", "told", "stage"),
    [
        ("dev..qq", "'qq' is no stage, no file, and neither an image nor a container", "--env=dev"),
        ("dev..no\x1bthing", "is no stage", "-v"),
        ("lock:qq..dev", "there is no stage 'qq'", "-v"),
    ],
)
def test_a_mistyped_name_is_told_before_any_test_runs(
    suite: Project, pair: str, told: str, stage: str
) -> None:
    suite.write("test_it.py", "def test_it():\n    open('ran', 'w')\n")
    done = suite.pytest(f"--env-drift={pair}", stage).exits(4, told)
    assert "\x1b" not in done.text
    assert not (suite.root / "ran").exists()


def test_without_an_engine_a_name_that_needs_one_is_told_at_once(suite: Project) -> None:
    done = suite.pytest("--env-drift=dev..python:3.12", "--env-engine=unix:///no/such.sock").exits(
        4, "no-engine"
    )
    assert "passed" not in done.out
    # Stages are known without it; what their images are is asked at the end.
    suite.pytest("--env-drift=dev..qa", "--env-engine=unix:///no/such.sock").exits(4, "1 passed", "no-engine")


def test_presets_are_switched_off_by_the_configuration(suite: Project, images: dict[str, str]) -> None:
    done = suite.pytest("--env-drift", "-vv").exits(1, "hidden: ")
    assert "           /var/log/dpkg.log" in done.out
    table = '[drift]\ncompare = [["dev", "qa"]]\nno-presets = [{}]'
    suite.stages(table.format('"package-logs"'), **images)
    suite.pytest("--env-drift").exits(1, "file     ~ /var/log/dpkg.log")
    suite.envpar("diff", "dev", "qa").exits(1, "file     ~ /var/log/dpkg.log")
    suite.stages(table.format('"all"'), **images)
    done = suite.pytest("--env-drift").exits(1)
    # What accounts for a finding is no noise, whatever the presets. Times count, too, and may be the same.
    (hidden,) = [line for line in done.out.splitlines() if line.startswith("  hidden: ")]
    assert re.fullmatch(r"  hidden: \d+, package databases: what they record is compared", hidden)
    suite.stages(table.format('"bytecod"'), **images)
    suite.pytest("--env-drift").exits(4, "no-presets[0]", 'did you mean "bytecode"?')


def test_no_gate_without_tests_to_run(suite: Project) -> None:
    suite.pytest("--env-drift", "--collect-only").exits(0, "1 test collected")
    suite.pytest("--env-drift", "--markers").exits(0, "env_only")


def test_hooks_of_a_plugin(suite: Project) -> None:
    suite.write(
        "conftest.py",
        """
        def pytest_envpar_drift_found(drift):
            print("FOUND", drift.left, drift.right, len(drift.packages))

        class Own:
            ecosystem = "own"
            def installed(self, tree, hints):
                return []
            def owned(self, tree, packages, wanted):
                return []
            def records(self, path):
                return None

        def pytest_envpar_packages():
            return [Own()]
        """,
    )
    suite.pytest("--env-drift", "-s").exits(1, "FOUND dev qa 1")
    suite.write("conftest.py", "def pytest_envpar_packages():\n    return [1]\n")
    suite.pytest("--env-drift").exits(4, "the hook pytest_envpar_packages returned 1")


def test_an_update_writes_the_fingerprints_anew(suite: Project, images: dict[str, str]) -> None:
    def locked() -> Entry:
        lock = read(suite.root / "envpar.lock")
        assert lock is not None
        return lock.stages["dev"]

    suite.pytest("--env=dev").exits(0)
    # A run that nobody asked to look at the image does not.
    assert (locked().manifest, locked().packages) == (None, None)
    suite.stages(dev=images["qa"])
    suite.pytest("--env=dev", "--env-update").exits(0)
    first = locked()
    assert first.manifest
    assert first.packages
    suite.stages(dev=images["dev"])
    suite.pytest("--env=dev", "--env-update").exits(0)
    assert locked().manifest not in (None, first.manifest)
    assert locked().packages not in (None, first.packages)


def test_the_example(project: Project, base: str) -> None:
    if base != "envpar-base:py3.11":
        missing("the example's images start from envpar-base:py3.11")
    example = SOURCE / "examples" / "drift_gate"
    ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache", "envpar.lock")
    shutil.copytree(example, project.root, ignore=ignored, dirs_exist_ok=True)
    project.pytest("--env=dev").exits(0, "1 passed")
    done = project.pytest("--env=dev", "--env-drift").exits(1, "1 passed")
    assert "  package  greeting 1.0 -> 1.1 (dpkg, " in done.out
    assert last(done.out).startswith(
        "envpar: drift gate failed (fail-on package): dev -> qa: 1 finding: 1 package"
    )
