"""``--env-report``: a run as files."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rig.engines import DOCKER
from rig.hosts import SOURCE
from rig.needs import missing

from .projects import Project, deb

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.engine

BROWSER = Path("/usr/bin/chromium")
SUITE = """
    import pytest, sys
    def test_ok(): pass
    def test_bad(): print("<i>said</i>"); assert sys.flags.optimize
    @pytest.mark.skip(reason="later")
    def test_later(): pass
"""


@pytest.fixture(scope="module")
def images(build: Callable[..., str]) -> dict[str, str]:
    """Two images that differ by a package."""
    return {
        "dev": build("report-dev", deb("greet", "1.0", a="one")),
        "qa": build("report-qa", deb("greet", "1.1", a="two"), "ENV PYTHONOPTIMIZE=1"),
    }


@pytest.fixture
def suite(project: Project, images: dict[str, str]) -> Project:
    """A project with a failing test and a skipped one."""
    project.write("test_it.py", SUITE)
    project.stages('[drift]\ncompare = [["dev", "qa"]]', **images)
    return project


def place(result: Any) -> str:
    """The file that SARIF shows a result at."""
    uri: str = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    return uri


def test_every_form_of_a_run_over_two_stages(suite: Project) -> None:
    forms = ("out/r.html", "out/r.json", "r.md", "r.sarif")
    done = suite.pytest("--env=dev,qa", "--env-drift", *(f"--env-report={name}" for name in forms))
    done.exits(1, *(f"envpar: report written to {suite.root / name}" for name in forms))
    data = json.loads((suite.root / "out/r.json").read_text(encoding="utf-8"))
    assert data["exit_status"] == 1
    assert data["counts"] == {
        "dev": {"passed": 1, "failed": 1, "skipped": 1},
        "qa": {"passed": 2, "skipped": 1},
    }
    assert data["differing"] == ["test_it.py::test_bad"]
    ends = {(test["nodeid"], test["stage"]): test for test in data["tests"]}
    assert ends["test_it.py::test_bad", "qa"]["outcome"] == "passed"
    bad = ends["test_it.py::test_bad", "dev"]
    assert "sys.flags.optimize" in bad["text"]
    assert "<i>said</i>" in bad["text"]
    assert ends["test_it.py::test_later", "dev"]["text"] == "Skipped: later"
    (dev, qa) = data["stages"]
    assert dev["digest"].startswith("sha256:")
    assert (qa["name"], qa["source"], qa["python"][:4]) == ("qa", "overlay", "3.11")
    assert data["gate"] == {"fail_on": "package", "failed": [["dev", "qa"]], "errors": []}
    assert [package["name"] for package in data["drift"][0]["packages"]] == ["greet"]
    results = json.loads((suite.root / "r.sarif").read_text(encoding="utf-8"))["runs"][0]["results"]
    assert "drift/package" in {each["ruleId"] for each in results}
    assert "### 1 of 3 tests end differently" in (suite.root / "r.md").read_text(encoding="utf-8")
    page = (suite.root / "out/r.html").read_text(encoding="utf-8")
    assert "&lt;i&gt;said&lt;/i&gt;" in page
    assert sorted(each.name for each in (suite.root / "out").iterdir()) == ["r.html", "r.json"]


def test_drift_and_pollution_of_one_run(suite: Project) -> None:
    suite.write(
        "test_it.py",
        """
        import os, subprocess
        def test_leaves(): open("/tmp/flag", "w").close()
        def test_child(): subprocess.run(["sh", "-c", "echo 1 >> /etc/profile"], check=True)
        def test_meets(): assert not os.path.exists("/tmp/flag")
        """,
    )
    forms = ("r.html", "r.json", "r.md", "r.sarif")
    asked = ("--env=dev,qa", "--env-drift", "--env-pollution", *(f"--env-report={name}" for name in forms))
    done = suite.pytest(*asked)
    done.exits(1, "2 failed, 4 passed", "greet 1.0 -> 1.1")
    data = json.loads((suite.root / "r.json").read_text(encoding="utf-8"))
    # What the comparison finds is of the images, and what the tests left is of their containers.
    assert [package["name"] for package in data["drift"][0]["packages"]] == ["greet"]
    assert not {"/tmp/flag", "/etc/profile"} & {change["path"] for change in data["drift"][0]["changes"]}
    assert sorted(
        (each["stage"], each["nodeid"], [(path["kind"], path["path"]) for path in each["paths"]])
        for each in data["pollution"]["left"]
    ) == [
        (stage, f"test_it.py::{name}", [what])
        for stage in ("dev", "qa")
        for name, what in (
            ("test_child", ("changed", "/etc/profile")),
            ("test_leaves", ("created", "/tmp/flag")),
        )
    ]
    assert [(met["nodeid"], met["stage"], met["by"]) for met in data["pollution"]["met"]] == [
        ("test_it.py::test_meets", stage, "test_it.py::test_leaves") for stage in ("dev", "qa")
    ]
    assert data["pollution"]["unattributed"] == data["pollution"]["problems"] == []
    culprit = (
        "test_it.py::test_meets@dev failed and its failure names /tmp/flag, which test_it.py::test_leaves"
    )
    assert culprit in done.out
    assert culprit in (suite.root / "r.html").read_text(encoding="utf-8")
    assert culprit in re.sub(r"\\(?=[_:@])", "", (suite.root / "r.md").read_text(encoding="utf-8"))
    results = json.loads((suite.root / "r.sarif").read_text(encoding="utf-8"))["runs"][0]["results"]
    assert [each["ruleId"] for each in results].count("pollution/met") == 2
    assert culprit in next(each["message"]["text"] for each in results if each["ruleId"] == "pollution/met")


def test_pollution_alone_is_enough_for_sarif(project: Project, images: dict[str, str]) -> None:
    """It is shown at files that there are: pytest's root is below the project, no file is named ``envpar.toml``."""
    stage = f'[tool.envpar.stages.dev]\nimage = "{images["dev"]}"\nnetwork = "none"\n'
    project.write("pyproject.toml", f'[tool.envpar]\nengine = "{DOCKER}"\n{stage}')
    project.write("sub/pytest.ini", "[pytest]\n")
    project.write(
        "sub/test_it.py",
        """
        import pytest
        @pytest.fixture(scope="session")
        def store(): open("/tmp/store", "w").close()
        def test_leaves(store): open("/tmp/flag", "w").close()
        """,
    )
    project.pytest("--env=dev", "--env-pollution", "--env-report=r.sarif", "sub").exits(0, "1 passed")
    results = json.loads((project.root / "r.sarif").read_text(encoding="utf-8"))["runs"][0]["results"]
    assert {each["message"]["text"]: place(each) for each in results} == {
        "test_it.py::test_leaves left created 1: + /tmp/flag": "sub/test_it.py",
        "session fixture store, set up for test_it.py::test_leaves left created 1: + /tmp/store": (
            "pyproject.toml"
        ),
    }
    assert [each["properties"] for each in results] == [{"stage": "dev"}] * 2


def test_workers_of_xdist_write_one_report(suite: Project) -> None:
    suite.pytest("--env=qa", "-n2", "--env-report=r.json").exits(0, "2 passed, 1 skipped")
    data = json.loads((suite.root / "r.json").read_text(encoding="utf-8"))
    assert data["counts"] == {"qa": {"passed": 2, "skipped": 1}}
    assert data["gate"] is None


def test_a_comparison_without_a_stage(suite: Project) -> None:
    suite.pytest("--env-drift", "--env-report=r.json", "-q", "--deselect=test_it.py::test_bad").exits(1)
    data = json.loads((suite.root / "r.json").read_text(encoding="utf-8"))
    assert data["counts"] == {"": {"passed": 1, "skipped": 1}}
    assert data["stages"] == []
    assert data["gate"]["failed"] == [["dev", "qa"]]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--env=dev", "--env-report=r.txt"], "--env-report=r.txt: the end of its name says which report"),
        (["--env=dev", "--env-report=r.sarif"], "neither is looked at"),
        (["--env-report=r.html"], "there is neither a stage nor a comparison to report"),
        (["--env=dev", "--env-report=folder.md"], "this is a folder"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_run(args: list[str], told: str, suite: Project) -> None:
    (suite.root / "folder.md").mkdir()
    done = suite.pytest(*args).exits(4, told)
    assert "test_it.py" not in done.out


def test_a_report_that_fails_is_told_and_the_old_one_stays(suite: Project) -> None:
    # A file where a folder would have to be: true for root as well.
    suite.write("r", "a file")
    done = suite.pytest("--env=qa", "--env-report=r/r.md").exits(3, "2 passed", "was not written")
    assert (suite.root / "r").read_text(encoding="utf-8") == "a file"
    assert done.out.strip().splitlines()[-1].startswith("envpar: report ")


def test_a_plugin_hears_of_it(suite: Project) -> None:
    suite.write(
        "heard.py",
        """
        def pytest_envpar_report_written(path, form):
            print(f"heard of {path.name}, {form}")
        """,
    )
    done = suite.pytest(
        "-p", "heard", "--env-drift", "--env-report=r.md", PYTHONPATH=f"{suite.root}:{SOURCE}"
    )
    done.exits(1, "heard of r.md, markdown")


@pytest.mark.slow
def test_a_browser_shows_the_page(suite: Project) -> None:
    if not BROWSER.exists():
        missing(f"no {BROWSER}")
    suite.pytest("--env=dev,qa", "--env-report=r.html")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
    done = subprocess.run(
        [str(BROWSER), *options, "--dump-dom", (suite.root / "r.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "1 of 3 tests end differently" in done.stdout
    assert "<i>said" not in done.stdout
