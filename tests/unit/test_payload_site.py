"""The vendored pytest works on every Python at hand, and nothing but pytest becomes importable."""

# ruff: noqa: ARG005 - stand-ins take what the real ones take
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.errors import StageError
from pytest_envpar.worker import dists, vendor

if TYPE_CHECKING:
    from collections.abc import Callable

SUITE = """
import importlib.metadata
import multiprocessing
import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("name", ["pluggy", "iniconfig", "packaging", "pygments", "tomli"])
def test_not_importable(name):
    with pytest.raises(ModuleNotFoundError):
        __import__(name)


def test_no_metadata():
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("pytest")


def imports_pytest():
    import pytest  # noqa: F401


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method):
    child = multiprocessing.get_context(method).Process(target=imports_pytest)
    child.start()
    child.join()
    assert child.exitcode == 0


def test_subprocess():
    done = subprocess.run([sys.executable, "-c", "import pytest"], stderr=subprocess.PIPE)
    assert b"No module named 'pytest'" in done.stderr
    assert not [name for name in os.environ if "ENVPAR" in name.upper()]


def test_detail():
    left = {"x": 1, "y": [1, 2]}
    assert left == {"x": 1, "y": [1, 3]}
"""

RUN = """
import json, sys
sys.path.append(sys.argv[1])
import pytest

class Outcomes:
    def __init__(self):
        self.found = {}
    def pytest_runtest_logreport(self, report):
        if report.when == "call":
            self.found[report.nodeid.split("::")[1]] = report.outcome

if __name__ == "__main__":
    outcomes = Outcomes()
    args = ["-p", "no:cacheprovider", "--color=yes", "-v", "--rootdir", sys.argv[2], sys.argv[2]]
    code = pytest.main(args, plugins=[outcomes])
    print("RESULT" + json.dumps([int(code), outcomes.found]))
"""


def interpreters() -> list[tuple[str, str]]:
    """Pythons on ``PATH`` and of pyenv, one of each minor version from 3.8 on."""
    roots = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/*/bin"))
    folders = [*(Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)), *roots]
    found: dict[str, str] = {}
    for minor in range(8, 16):
        for folder in folders:
            command = shutil.which(f"python3.{minor}", path=str(folder))
            if (
                command
                and subprocess.run([command, "-c", ""], capture_output=True, check=False).returncode == 0
            ):
                found.setdefault(f"3.{minor}", command)
    return list(found.items())


def version_of(python: str) -> tuple[int, int, int]:
    code = "import sys; print(list(sys.version_info[:3]))"
    major, minor, micro = json.loads(subprocess.check_output([python, "-I", "-c", code]))
    return major, minor, micro


@pytest.fixture(scope="module")
def site_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[int, int, int]], Path]:
    """A folder with the tree for a Python; several Pythons share one, as they share a tree for real."""
    fetched = tmp_path_factory.mktemp("fetched")
    made: dict[str, Path] = {}

    def make(python: tuple[int, int, int]) -> Path:
        choice = dists.choose(python)
        key = json.dumps(sorted(choice.versions.items()))
        if key not in made:
            try:
                sources = dists.sources(choice, python, fetched)
            except StageError as error:
                pytest.skip(f"an older pytest is needed and no package index answers: {error.message}")
            made[key] = tmp_path_factory.mktemp("site")
            for path, source in vendor.private_site(sources, choice.versions).items():
                (made[key] / path).parent.mkdir(parents=True, exist_ok=True)
                (made[key] / path).write_bytes(source)
        return made[key]

    return make


@pytest.mark.parametrize(
    ("minor", "python"),
    # The oldest always; the others are in images, too, in which other tests run suites.
    [
        pytest.param(*each, marks=pytest.mark.slow if place else ())
        for place, each in enumerate(interpreters())
    ],
)
def test_site_runs_a_suite_and_supplies_nothing_else(
    minor: str, python: str, tmp_path: Path, site_for: Callable[[tuple[int, int, int]], Path]
) -> None:
    version = version_of(python)
    site = site_for(version)
    choice = dists.choose(version)
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "test_it.py").write_text(SUITE)
    (tmp_path / "run.py").write_text(RUN)
    # A virtual environment, because the interpreter itself may have a pytest.
    subprocess.run([python, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [str(tmp_path / "venv/bin/python"), "-I", str(tmp_path / "run.py"), str(site), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert "RESULT" in done.stdout, done.stdout + done.stderr
    output, _, result = done.stdout.rpartition("RESULT")
    code, outcomes = json.loads(result)
    failed = [name for name, outcome in outcomes.items() if outcome != "passed"]
    assert (code, failed, len(outcomes)) == (1, ["test_detail"], 11), output
    assert f"pytest-{choice.versions['pytest']}, pluggy-{choice.versions['pluggy']}" in output
    assert "\x1b[94massert\x1b[39;49;00m" in output or "\x1b[0m\x1b[94massert\x1b[39;49;00m" in output
    assert "Differing items:" in output


def test_the_hosts_own_pytest_serves_its_own_python_without_fetching() -> None:
    choice = dists.choose((sys.version_info[0], sys.version_info[1], sys.version_info[2]))
    assert choice.versions["pytest"] == pytest.__version__
    assert choice.fetched == frozenset() or sys.version_info < (3, 11)


def test_a_python_that_the_hosts_pytest_dropped_gets_the_pinned_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dists, "_host_version", lambda name, python: None)
    choice = dists.choose((3, 8, 18))
    assert choice.versions["pytest"] == "8.3.5"
    assert choice.fetched == set(choice.versions)
    assert {"tomli", "exceptiongroup", "typing-extensions"} < choice.fetched
    assert dists.choose((3, 9, 2)).versions["pytest"] == "8.4.2"
    assert "exceptiongroup" not in dists.choose((3, 12, 1)).versions


def test_a_host_dependency_outside_what_pytest_wants_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        dists, "_host_version", lambda name, python: {"pytest": "9.0", "pluggy": "0.1"}.get(name, "99")
    )
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["pluggy>=1.5,<2"])
    choice = dists.choose((3, 12, 1))
    assert choice.fetched == {"pluggy"}
    assert choice.versions["pluggy"] == "1.6.0"
    assert choice.versions["packaging"] == "99"


def test_offline_says_what_was_wanted_and_how_to_avoid_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    choice = dists.Choice({"pytest": "8.3.5", "pluggy": "1.5.0"}, frozenset({"pytest", "pluggy"}))
    with pytest.raises(StageError) as caught:
        dists.sources(choice, (3, 8, 1), tmp_path)
    text = str(caught.value)
    assert "The image has Python 3.8 and no pytest of its own" in text
    assert "Fetching pluggy==1.5.0, pytest==8.3.5 with pip failed" in text
    assert "hint: install pytest in the image, or run once with pip" in text
    assert "No matching distribution" in text
    assert list((tmp_path / "wheels").iterdir()) == []


def test_missing_pip_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    choice = dists.Choice({"pluggy": "1.5.0"}, frozenset({"pluggy"}))
    with pytest.raises(StageError, match="with pip failed"):
        dists.sources(choice, (3, 8, 1), tmp_path)


def test_a_wheel_gives_only_its_own_python_sources(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "pluggy-1.5.0-py3-none-any.whl", "w") as wheel:
        for name in (
            "pluggy/__init__.py",
            "pluggy/data.txt",
            "other/x.py",
            "pluggy/../../evil.py",
            "/etc/x.py",
        ):
            wheel.writestr(name, "x = 1\n")
        wheel.writestr("pluggy-1.5.0.dist-info/METADATA", "")
    choice = dists.Choice({"pluggy": "1.5.0"}, frozenset({"pluggy"}))
    found = dists.sources(choice, (3, 8, 1), tmp_path)
    assert [str(path) for path in found["pluggy"]] == ["pluggy/__init__.py"]


def test_a_damaged_wheel_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "pluggy-1.5.0-py3-none-any.whl").write_bytes(b"cut off")
    asked: list[list[str]] = []
    monkeypatch.setattr(dists, "_download", lambda wanted, python, folder: asked.append(wanted))
    with pytest.raises(StageError, match="with pip failed"):
        dists.sources(dists.Choice({"pluggy": "1.5.0"}, frozenset({"pluggy"})), (3, 8, 1), tmp_path)
    assert asked == [["pluggy==1.5.0"]]
