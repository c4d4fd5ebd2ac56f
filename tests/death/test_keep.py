"""``--env-keep`` in a stage run: what stays, the commands that enter and remove it, and who leaves it alone."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from rig.needs import module

from pytest_envpar.containers.sweep import prune, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .projects import Project, Result

pytestmark = pytest.mark.engine

SUITE = """
import os, pathlib, time
def say(text): os.write(1, text.encode())
def test_good(): pathlib.Path("left").write_text("inside only")
"""
BAD = "def test_bad(): assert False\n"
LOOK = "pwd; id -u; echo app-$APP; cat $ROOT/left"
LIMIT_S = 90.0


@pytest.fixture
def kept(project: Project) -> Iterator[Project]:
    """A project whose kept containers go after the test."""
    yield project
    _remove_all(project)


def _remove_all(project: Project) -> None:
    prune(project.engine, project=str(project.root))


def names(result: Result) -> list[str]:
    """Of the containers that the run says it has kept."""
    return re.findall(r"^(?:envpar: )?(?:\w+: )*kept (envpar-kept-[\w.-]+)", result.text, re.MULTILINE)


def command(result: Result, verb: str) -> str:
    """The only command of this verb that the run tells."""
    (found,) = re.findall(rf"  {verb}[^:\n]*: +(.*)", result.text.replace("remove all", "all"))
    return str(found)


def call(project: Project, line: str) -> str:
    """What a command prints, as the user gives it, without a terminal."""
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        env={**project.environ, "ROOT": str(project.root)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def inside(project: Project, enter: str, script: str) -> str:
    """What a script prints that is typed where the command ``enter`` leads to."""
    words = enter.replace(" -it ", f" -i -e ROOT={project.root} ").rpartition(" ")
    assert words[2] in ("sh", "bash")
    return call(project, f"{words[0]} {words[2]} -c '{script}'")


def states(project: Project) -> set[tuple[str, str]]:
    return {(each.type, each.state) for each in project.left()}


def check_entry(project: Project) -> None:
    """Enter what a failed test leaves, as it was told, and remove it."""
    project.stage('user = "0"', 'env = { APP = "shelf" }')
    project.write("test_it.py", SUITE + BAD)
    result = project.start("--env-keep=failed", "-q").end().clean()
    assert result.code == 1
    (name,) = names(result)
    assert f"kept {name}: test_it.py::test_bad failed" in result.text
    assert inside(project, command(result, "enter"), LOOK) == f"{project.root}\n0\napp-shelf\ninside only"
    assert "remove all that was kept of this project: envpar prune --project" in result.text
    # No process of the suite is left in it, and no later run takes it away.
    assert inside(project, command(result, "enter"), "ls -d /proc/[0-9]*").count("/proc") <= 3
    sweep(project.engine, everything_dead=False)
    listed = subprocess.run(
        [sys.executable, "-m", "pytest_envpar", "ps"],
        cwd=project.root,
        env=project.environ,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.search(rf"^container +{name} +run +kept +qa +{project.root}$", listed, re.MULTILINE), listed
    assert {state for _, state in states(project)} == {"kept"}
    call(project, command(result, "remove"))
    assert project.left() == []


def test_a_failed_test_is_entered_and_removed_as_told(kept: Project) -> None:
    check_entry(kept)


def test_the_same_on_podman(podman_project: Project) -> None:
    try:
        check_entry(podman_project)
    finally:
        _remove_all(podman_project)


@pytest.mark.slow
def test_always_from_a_folder_below_and_prune(kept: Project) -> None:
    kept.write("sub/test_it.py", "def test_good(): pass\n")
    result = kept.start("--env-keep=always", cwd=kept.root / "sub").end().clean()
    assert result.code == 0
    assert len(names(result)) == 1
    assert inside(kept, command(result, "enter"), "pwd") == f"{kept.root}/sub\n"
    assert prune(kept.engine, project=str(kept.root)).failed == ()
    assert kept.left() == []


def test_each_of_several_is_entered_where_the_suite_ran(kept: Project) -> None:
    kept.write("sub/test_it.py", "def test_a(): pass\ndef test_b(): pass\n")
    result = kept.start("--env-keep=always", "--env-fresh=test", cwd=kept.root / "sub").end().clean()
    assert result.code == 0
    entries = re.findall(r"  enter: +(.*)", result.text)
    assert [inside(kept, each, "pwd") for each in entries] == [f"{kept.root}/sub\n"] * 2


@pytest.mark.parametrize("when", ["failed", pytest.param("never", marks=pytest.mark.slow)])
def test_nothing_stays_of_a_good_run(project: Project, when: str) -> None:
    project.write("test_it.py", SUITE)
    result = project.run(f"--env-keep={when}")
    assert result.code == 0
    assert "kept" not in result.text


@pytest.mark.slow
def test_a_worker_that_dies_is_a_reason(kept: Project) -> None:
    kept.write("test_it.py", SUITE + "def test_dies(): os._exit(3)\ndef test_last(): pass\n")
    result = kept.start("--env-keep=failed").end().clean()
    assert result.counts == {"passed": 2, "failed": 1}
    (name,) = names(result)
    assert f"kept {name}: test_it.py::test_dies failed" in result.text
    assert inside(kept, command(result, "enter"), "cat left") == "inside only"


@pytest.mark.slow
def test_so_is_a_worker_that_never_has_a_session(kept: Project) -> None:
    kept.write("conftest.py", "import os\nos._exit(3)\n")
    kept.write("test_it.py", SUITE)
    result = kept.start("--env-keep=failed").end().clean()
    assert result.code == 3
    assert len(names(result)) == 1
    assert inside(kept, command(result, "enter"), "cat conftest.py") == "import os\nos._exit(3)\n"


def test_so_is_an_exit_that_no_test_shows(kept: Project) -> None:
    kept.write("test_it.py", SUITE + "def test_exit():\n    import pytest\n    pytest.exit('enough', 9)\n")
    result = kept.start("--env-keep=failed").end().clean()
    assert result.code == 9
    assert len(names(result)) == 1


def test_a_container_that_was_killed_is_started_again(kept: Project) -> None:
    kept.write("test_it.py", SUITE + "def test_held():\n    say('now held')\n    time.sleep(1000)\n")
    run = kept.start("--env-keep=failed", "-s")
    run.wait_for("now held")
    (container,) = kept.containers()
    kept.engine.kill(container.id)
    result = run.end().clean()
    (name,) = names(result)
    assert name.endswith(container.name.removeprefix("envpar-"))
    call(kept, command(result, "start"))
    assert inside(kept, command(result, "enter"), "cat left") == "inside only"
    call(kept, command(result, "remove"))
    assert kept.left() == []


@pytest.mark.slow
def test_one_that_was_removed_cannot_be_kept(project: Project) -> None:
    project.write("test_it.py", SUITE + "def test_held():\n    say('now held')\n    time.sleep(1000)\n")
    run = project.start("--env-keep=failed", "-s")
    run.wait_for("now held")
    (container,) = project.containers()
    project.engine.remove_container(container.id)
    result = run.end().clean()
    assert f"{container.name} could not be kept: " in result.text
    assert "kept envpar" not in result.text
    assert project.left() == []


@pytest.mark.parametrize(
    ("when", "count"), [("always", 1), pytest.param("failed", 0, marks=pytest.mark.slow)]
)
def test_ctrl_c(kept: Project, when: str, count: int) -> None:
    kept.write("test_it.py", SUITE + "def test_held():\n    say('now held')\n    time.sleep(1000)\n")
    run = kept.start(f"--env-keep={when}", "-s")
    run.wait_for("now held")
    run.signal(signal.SIGINT)
    result = run.end()
    assert result.code == 2
    assert len(names(result)) == count
    assert len(kept.containers()) == count
    if count:
        assert inside(kept, command(result, "enter"), "cat left") == "inside only"


def test_services_stay_with_it(kept: Project) -> None:
    kept.stage(
        "[stages.qa.services.web]",
        f'image = "{kept.image}"',
        'command = ["python3", "-m", "http.server", "8000"]',
        "ready = { tcp = 8000, timeout = 60 }",
    )
    kept.write("test_it.py", BAD)
    result = kept.start("--env-keep=failed").end().clean()
    assert len(names(result)) == 1
    code = 'python3 -c "import urllib.request as u; print(u.urlopen(\\"http://web:8000\\").status)"'
    assert inside(kept, command(result, "enter"), code) == "200\n"
    sweep(kept.engine, everything_dead=False)
    assert states(kept) == {("container", "kept"), ("volume", "kept"), ("network", "kept")}
    first, last = re.findall(r"  remove[^:\n]*: +(docker rm.*)", result.text)
    call(kept, first)
    call(kept, last)
    assert kept.left() == []


@pytest.mark.slow
def test_of_several_stages_each_tells_its_own(kept: Project) -> None:
    path = kept.root / "envpar.toml"
    path.write_text(path.read_text() + f'\n[stages.dev]\nimage = "{kept.image}"\nenv = {{ APP = "dev" }}\n')
    kept.write("test_it.py", "import os\ndef test_a(): assert 'APP' not in os.environ\n")
    result = kept.start("--env=dev,qa", "--env-keep=failed").end().clean()
    (name,) = names(result)
    assert f"envpar: dev: kept {name}: test_it.py::test_a@dev failed" in result.text
    assert inside(kept, command(result, "enter"), "echo $APP") == "dev\n"


def test_of_several_workers_each_tells_its_own(kept: Project) -> None:
    module("xdist")
    kept.write("test_it.py", "def test_a(): pass\ndef test_b(): assert False\n")
    result = kept.start("-n", "2", "-q", "--env-keep=failed").end().clean()
    (name,) = names(result)
    assert re.search(rf"envpar: gw\d: kept {name}: test_it.py::test_b failed", result.text)
    assert inside(kept, command(result, "enter"), "pwd") == f"{kept.root}\n"
