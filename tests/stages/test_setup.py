"""``setup`` steps: run once, kept as a layer, run again when an input changed."""

from __future__ import annotations

import re
import secrets
import subprocess
import threading
import zipfile
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.cli import main
from pytest_envpar.images.lockfile import read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rig.runs import Ran

    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.images import ImageInfo

    from .projects import Project

pytestmark = pytest.mark.engine
PASSES = "def test_a(): pass\n"


@pytest.fixture(autouse=True)
def made(engine: Engine, project: Project) -> Iterator[Callable[[], list[str]]]:
    """The images of the project's stages, which are removed afterwards."""

    def find() -> list[str]:
        found = engine.list_images({"pytest-envpar.project": str(project.root)})
        return sorted(each.name for each in found)

    yield find
    for name in find():
        engine.remove_image(name, force=True)


def image_of(engine: Engine, result: Ran) -> ImageInfo:
    name = re.findall(r"is kept as (\S+)", result.err)[-1]
    found = engine.inspect_image(name)
    assert found is not None
    return found


def test_setup_runs_once(project: Project, engine: Engine, made: Callable[[], list[str]]) -> None:
    project.write("data/seed.txt", "one")
    project.write("other.txt", "one")
    project.stage(
        'setup = ["echo to-be-seen; cp data/seed.txt /seed", "date +%N > /stamp"]', "env = { A = 'b' }"
    )
    suite = """
        def test_a():
            assert open("/seed").read() == "one"
            print(open("/stamp").read())
    """
    first = project.suite(suite, "-rP").ok()
    assert "envpar: setup of stage qa, step 1 of 2: echo to-be-seen; cp data/seed.txt /seed\n" in first.err
    assert "envpar: to-be-seen\n" in first.err
    assert "drift: suite left nothing behind in the container" in first.out
    (stamp,) = re.findall(r"^\d{9}$", first.out, re.MULTILINE)
    base, layered = engine.inspect_image(project.image), image_of(engine, first)
    assert base is not None
    assert layered.layers[:-1] == base.layers
    same = ("env", "user", "workdir", "entrypoint", "cmd", "volumes")
    assert [getattr(layered, name) for name in same] == [getattr(base, name) for name in same]
    assert layered.labels["pytest-envpar.kind"] == "cache"
    # What did not change is not run; nor does what no step names count.
    project.write("other.txt", "two")
    again = project.run("-rP").ok()
    assert stamp in again.out
    assert "setup" not in again.err
    assert len(made()) == 1


@pytest.mark.slow
def test_setup_runs_again_when_an_input_changed(project: Project, made: Callable[[], list[str]]) -> None:
    project.write("data/seed.txt", "one")
    project.stage('setup = ["cp data/seed.txt /seed"]')
    project.suite("def test_a(): assert open('/seed').read() == 'one'\n").ok()
    project.write("data/seed.txt", "two")
    changed = project.run(CI="true").refused("setup steps changed, or the files they name")
    assert "step 1" not in changed.err
    changed = project.run("-rP")
    assert changed.code == 1
    assert "assert 'two' == 'one'" in changed.out
    assert (
        "locked stage qa anew in envpar.lock: setup steps changed, or the files they name; now "
        in changed.err
    )
    project.write("data/seed.txt", "one")
    assert "step 1" not in project.run("-rP").ok().err
    assert len(made()) == 2


@pytest.mark.slow
def test_setup_runs_as_the_stage(project: Project, engine: Engine) -> None:
    """User, variables, place; the project is there and cannot be written to."""
    project.write("here.txt", "x")
    steps = [
        "id -u > /tmp/told; id -g >> /tmp/told; pwd >> /tmp/told",
        "echo $A/$SECRET/$PATH >> /tmp/told; cat here.txt; echo $SECRET",
        "touch here.txt new.txt 2>> /tmp/told || true",
    ]
    project.stage(f"setup = {steps!r}", 'user = "1234:5"', "env = { A = 'a b' }", 'pass-env = ["SECRET"]')
    project.write(
        "test_it.py",
        """
        import os
        def test_a():
            uid, gid, cwd, variables, *errors = open("/tmp/told").read().splitlines()
            assert (uid, gid, cwd) == ("1234", "5", os.getcwd())
            assert variables.startswith("a b/hush") and "-hush//usr/" in variables
            assert len(errors) == 2 and all("Read-only file system" in each for each in errors)
        """,
    )
    before = project.snapshot()
    first = project.run(SECRET="hush-hush").ok()
    assert "hush-hush" not in first.text + str(image_of(engine, first))
    assert "envpar: x$SECRET\n" in first.err
    assert project.snapshot() == before


def test_a_failing_step_is_told_and_nothing_kept(project: Project, made: Callable[[], list[str]]) -> None:
    project.stage("setup = ['true', 'for n in $(seq 30); do echo line $n; done; echo the cause >&2; exit 7']")
    failed = project.suite(PASSES).refused(
        "stage 'qa': setup step 2 of 2 failed: exit code 7 [image]",
        "  | $ for n in $(seq 30); do echo line $n; done; echo the cause >&2; exit 7",
        "  | the cause",
        f"hint: steps run as root in {project.image} (local sha256:",
    )
    assert "test session starts" not in failed.out
    assert failed.err.index("| line 30") < failed.err.index("| the cause")
    assert "| line 5\n" not in failed.err
    assert made() == []
    assert not (project.root / "envpar.lock").exists()
    project.stage("setup = ['kill -9 $PPID']")
    project.run().refused("setup step 1 of 1 failed: ")
    project.stage("setup = ['no-such-program']")
    project.run().refused("setup step 1 of 1 failed: exit code 127", "no-such-program: not found")


def test_a_step_may_leave_a_process_behind(project: Project) -> None:
    project.stage(
        "setup = ['sleep 600 & echo begun', 'echo \"no newline at the end\" | tr -d \"\\n\" > /made; cat /made']"
    )
    told = project.suite("def test_a(): assert open('/made').read() == 'no newline at the end'").ok().err
    assert "envpar: no newline at the end\n" in told


@pytest.mark.slow
def test_one_process_makes_it_while_others_wait(project: Project, made: Callable[[], list[str]]) -> None:
    project.stage("setup = ['echo making; sleep 2']")
    project.write("test_it.py", PASSES)
    results: list[Ran] = []
    threads = [threading.Thread(target=lambda: results.append(project.run(alone=False))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.ok().code for result in results] == [0, 0]
    assert sum("envpar: making\n" in result.err for result in results) == 1
    assert (
        sum("waiting for another process that makes pytest-envpar/" in result.err for result in results) == 1
    )
    assert len(made()) == 1


@pytest.mark.slow
def test_setup_is_locked_with_its_base(project: Project, engine: Engine, built: list[str]) -> None:
    name = f"envpar-test-setup:{project.root.parent.name[-20:].lower().strip('_-')}"
    engine.tag_image(project.image, name)
    built.append(name)
    project.stage(f'image = "{name}"', "setup = ['touch /made']")
    project.suite(PASSES).ok()
    lock = read(project.root / "envpar.lock")
    assert lock is not None
    entry, base = lock.stages["qa"], engine.inspect_image(project.image)
    assert base is not None
    assert (entry.reference, entry.base, entry.digest) == (name, {name: f"local {base.id}"}, None)
    assert entry.setup is not None
    project.run(CI="true").ok()
    # The tag moves: the locked base stays, and that is said.
    engine.tag_image("envpar-base:py3.13", name)
    moved = project.run(CI="true").ok()
    assert f"envpar: tag {name} now means sha256:" in moved.err
    assert "step 1" not in moved.err
    taken = project.run("--env-update", CI="true").ok()
    assert f"base image changed: {name} local sha256:" in taken.err
    project.stage(f'image = "{name}"')
    project.run(CI="true").refused("setup steps removed")


def test_the_commands_know_it(
    project: Project,
    made: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``lock``, ``lock --check``, ``ps --cache``."""
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("XDG_CACHE_HOME", project.environ["XDG_CACHE_HOME"])
    project.write("run.sh", "touch /made\n")
    project.stage("setup = ['sh run.sh']")
    assert main(["lock"]) == 0
    assert "qa: locked to pytest-envpar/project-qa-setup:" in capsys.readouterr().out
    assert main(["lock", "--check"]) == 0
    (name,) = made()
    capsys.readouterr()
    assert main(["ps", "--cache"]) == 0
    assert name in capsys.readouterr().out
    project.write("run.sh", "touch /made /more\n")
    assert main(["lock", "--check"]) == 1
    assert "qa: setup steps changed, or the files they name" in capsys.readouterr().out
    assert main(["outdated"]) == 0
    assert project.image in capsys.readouterr().out


def test_an_image_without_a_shell(project: Project, engine: Engine, built: list[str]) -> None:
    project.write("docker/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
    project.stage('build = { context = "docker" }', "setup = ['true']")
    project.suite(PASSES).refused(
        "setup steps cannot be run in ", "they need /bin/sh in the image", "[stage]"
    )


def wheel(folder: Path) -> None:
    """A wheel of the package ``tiny``, as small as can be."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny-1-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny.py", "")
        archive.writestr("tiny-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
        archive.writestr(
            "tiny-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny-1.dist-info/RECORD", "tiny.py,,\n")


def test_an_image_that_gets_its_python_by_steps(project: Project, built: list[str]) -> None:
    name = f"envpar-test-setup-python:{secrets.token_hex(6)}"
    built.append(name)
    text = f"FROM {project.image}\nRUN mkdir /away && mv /usr/bin/python3* /away\n"
    subprocess.run(
        ["docker", "build", "-q", "-t", name, "-"], input=text.encode(), check=True, capture_output=True
    )
    project.stage(f'image = "{name}"', "setup = ['mv /away/* /usr/bin']")
    project.suite("import sys\ndef test_a(): assert sys.executable == '/usr/bin/python3'\n").ok()
    assert "setup" not in project.run().ok().err


@pytest.mark.slow
def test_a_base_that_is_gone_is_told(project: Project, engine: Engine, built: list[str]) -> None:
    name = f"envpar-test-setup-gone:{secrets.token_hex(6)}"
    built.append(name)
    text = f"FROM {project.image}\nRUN echo {name} > /etc/another\n"
    subprocess.run(
        ["docker", "build", "-q", "-t", name, "-"], input=text.encode(), check=True, capture_output=True
    )
    project.stage(f'image = "{name}"', "setup = ['touch /made']")
    project.suite(PASSES).ok()
    for each in engine.list_images({"pytest-envpar.project": str(project.root)}):
        engine.remove_image(each.name, force=True)
    engine.remove_image(name, force=True)
    project.run(CI="true").refused(
        f"envpar.lock pins {name} to the local image sha256:", "which this engine does not"
    )


def test_containers_of_fixtures_have_it(project: Project) -> None:
    project.stage("setup = ['echo from-setup > /made']")
    project.suite(
        """
        def test_a(qa_container):
            assert qa_container.exec(["cat", "/made"], check=True).stdout.strip() in (b"from-setup", "from-setup")
        """,
        stage="",
    ).ok()


@pytest.mark.slow
def test_setup_on_a_build_with_wheels(project: Project) -> None:
    """The usual case, without a network: packages of a requirements file from a folder of the project."""
    wheel(project.root / "wheels")
    project.write(
        "docker/Dockerfile", f"FROM {project.image}\nRUN python3 -m venv /venv\nENV VIRTUAL_ENV=/venv\n"
    )
    project.write("requirements.txt", "-r more.txt\n")
    project.write("more.txt", "tiny\n")
    step = "/venv/bin/pip install --no-index --find-links wheels -r requirements.txt"
    project.stage('build = { context = "docker" }', f"setup = ['{step}']")
    first = project.suite("import tiny\ndef test_a(): pass\n").ok()
    assert "Successfully installed tiny" in first.err
    assert "setup" not in project.run().ok().err
    project.write("more.txt", "tiny>=1\n")
    assert "Successfully installed tiny" in project.run().ok().err
