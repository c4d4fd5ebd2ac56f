"""The lock file in runs: locked on first use, exact afterwards, refused where it has to be."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest
from rig.needs import missing

from pytest_envpar.images.lockfile import read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rig.runs import Ran

    from pytest_envpar.engine.api import Engine
    from pytest_envpar.images.lockfile import Entry

    from .projects import Project

pytestmark = pytest.mark.engine
TEST = "def test_a(): pass\n"


@pytest.fixture
def tag(engine: Engine, image: str) -> Iterator[Callable[[str], str]]:
    """``tag(image)`` moves one tag to an image and returns it."""
    name = f"envpar-test-lock:{secrets.token_hex(6)}"

    def move(target: str = image) -> str:
        engine.tag_image(target, name)
        return name

    yield move
    engine.remove_image(name)


@pytest.fixture
def another(image: str, built: list[str]) -> str:
    """An image like the base image with one more layer."""
    name = f"envpar-test-lock:{secrets.token_hex(6)}"
    built.append(name)
    text = f"FROM {image}\nRUN echo {name} > /etc/another\n"
    subprocess.run(
        ["docker", "build", "-q", "-t", name, "-"], input=text.encode(), check=True, capture_output=True
    )
    return name


def entry(project: Project, stage: str = "qa") -> Entry:
    lock = read(project.root / "envpar.lock")
    assert lock is not None
    return lock.stages[stage]


def locked(project: Project) -> bytes:
    return (project.root / "envpar.lock").read_bytes()


def test_first_use_locks_and_the_second_changes_nothing(project: Project, image: str, engine: Engine) -> None:
    first = project.suite(TEST).ok()
    found = engine.inspect_image(image)
    assert found is not None
    line = f"envpar: locked stage qa to {image} (local {found.id[:19]}) in envpar.lock\n"
    assert line in first.err
    assert (entry(project).reference, entry(project).image_id, entry(project).layers) == (
        image,
        found.id,
        found.layers,
    )
    assert entry(project).digest is None
    before = locked(project)
    second = project.run().ok()
    assert "lock" not in second.err
    assert locked(project) == before
    for option in ("--env-frozen", "--env-update"):
        assert "lock" not in project.run(option).ok().err
        assert locked(project) == before
    assert "lock" not in project.run(CI="true").ok().err
    assert str(project.root).encode() not in before


@pytest.mark.parametrize(("option", "why"), [("", "CI is set"), ("--env-frozen", "--env-frozen: only what")])
def test_nothing_runs_that_is_not_locked(option: str, why: str, project: Project) -> None:
    args = (option,) if option else ()
    environ: dict[str, Any] = {} if option else {"CI": "true"}
    mends = "hint: run `envpar lock` or `pytest --env=qa --env-update`, and commit envpar.lock"
    project.write("test_it.py", TEST)
    result = project.run(*args, **environ)
    result.refused("stage 'qa' is not locked: there is no envpar.lock", why, "[lock]", mends)
    assert not (project.root / "envpar.lock").exists()
    project.run().ok()
    before = locked(project)
    project.stage('platform = "linux/s390x"')
    result = project.run(*args, **environ)
    result.refused("not as envpar.lock has it: platform edited: linux/amd64 -> linux/s390x", why, mends)
    project.stage(name="dev")
    project.run(*args, stage="dev", **environ).refused("stage 'dev' is not in envpar.lock", why)
    assert locked(project) == before


@pytest.mark.slow
def test_update_mends_it_in_ci(project: Project, another: str) -> None:
    project.suite(TEST, "--env-update").ok()
    project.stage(f'image = "{another}"')
    project.run(CI="true").refused("reference edited: ", another)
    told = project.run("--env-update", CI="true").ok().err
    edited = f"reference edited: {project.image} -> {another}"
    assert f"envpar: locked stage qa anew in envpar.lock: {edited}; now " in told
    project.run(CI="true").ok()


def test_both_options_contradict(project: Project) -> None:
    project.run("--env-frozen", "--env-update").refused("contradict each other", "[usage]")


def test_an_option_of_an_ini_file_binds_as_well(project: Project) -> None:
    project.write("pytest.ini", "[pytest]\naddopts = --env-frozen\n")
    project.write("test_it.py", TEST)
    for command in ("pytest", "run"):
        project.run(command=command).refused("--env-frozen: only what is locked may run")
    assert not (project.root / "envpar.lock").exists()


def test_a_tag_that_moved_is_told_and_not_used(
    project: Project, tag: Callable[..., str], another: str
) -> None:
    name = tag()
    project.stage(f'image = "{name}"')
    project.suite("from pathlib import Path\ndef test_a(): assert not Path('/etc/another').exists()\n").ok()
    before, was = locked(project), entry(project).image_id[:19]
    tag(another)
    for ci in ("", "true"):
        told = project.run(CI=ci).ok().err
        assert f"envpar: tag {name} now means sha256:" in told
        assert f"; using the locked {was}\n" in told
    assert locked(project) == before
    result = project.run("--env-update")
    assert result.code == 1, result.text
    assert f"image id {was} -> " in result.err
    assert "now means" not in project.run().err


def test_a_locked_image_that_is_gone_is_not_replaced(project: Project, another: str, engine: Engine) -> None:
    project.stage(f'image = "{another}"')
    project.suite(TEST).ok()
    was = entry(project).image_id
    engine.tag_image(project.image, another)
    engine.remove_image(was, force=True)
    result = project.run().refused(
        f"pins {another} to the local image {was[:19]}, which this engine does not have"
    )
    assert (
        "hint: provide that image, or lock what the tag means here: pytest --env=qa --env-update"
        in result.err
    )
    project.run("--env-update").ok()


@pytest.fixture
def run(project: Project, built: list[str], engine: Engine) -> Callable[..., Ran]:
    """``run(*args, **environ)`` runs the project; what is built for it is removed after the test."""

    def run(*args: str, **environ: Any) -> Ran:
        result = project.run(*args, **environ)
        found = engine.list_images({"pytest-envpar.stage": "qa", "pytest-envpar.project": str(project.root)})
        built.extend(each.name for each in found if each.name not in built)
        return result

    return run


def test_a_build_is_locked_by_its_inputs(project: Project, run: Callable[..., Ran]) -> None:
    project.write("Dockerfile", f"FROM {project.image}\nCOPY data /data\n")
    project.write("data", "one")
    project.stage("build = {}")
    project.write("test_it.py", TEST)
    assert "locked stage qa to pytest-envpar/project-qa:" in run().ok().err
    before = locked(project)
    assert b'build = "Dockerfile"' in before
    assert "lock" not in run(CI="true").ok().err
    assert locked(project) == before
    project.write("data", "two")
    changed = "Dockerfile, context or arguments of the build changed"
    run(CI="true").refused(f"stage 'qa' is not as envpar.lock has it: {changed}")
    assert f"envpar: locked stage qa anew in envpar.lock: {changed}; now " in run().ok().err


@pytest.mark.slow
def test_a_build_that_came_out_otherwise_or_on_another_base(
    project: Project,
    tag: Callable[..., str],
    another: str,
    built: list[str],
    engine: Engine,
    run: Callable[..., Ran],
) -> None:
    name = tag()
    project.write("Dockerfile", f"FROM {name}\nCOPY data /data\n")
    project.write("data", "one")
    project.stage("build = {}")
    project.write("test_it.py", TEST)
    run().ok()
    before = locked(project)

    # Same inputs, another content: as on a machine that has to build it itself.
    for each in built[-1:]:
        engine.remove_image(each, force=True)
    last = entry(project).layers[-1].encode()
    (project.root / "envpar.lock").write_bytes(before.replace(last, b"sha256:" + b"ab" * 32))
    again = run(CI="true").ok()
    assert "envpar: stage qa rebuilt: same inputs, other content: " in again.out
    (project.root / "envpar.lock").write_bytes(before)

    tag(another)
    moved = f"base image changed: {name} local sha256:"
    run(CI="true").refused(f"stage 'qa' is not as envpar.lock has it: {moved}")
    assert f"envpar: locked stage qa anew in envpar.lock: {moved}" in run().ok().err
    run(CI="true").ok()


def test_two_runs_at_once_both_lock(project: Project) -> None:
    project.stage()
    text = (project.root / "envpar.toml").read_text(encoding="utf-8")
    project.write("envpar.toml", text + "[stages.dev]\nextends = 'qa'\n")
    project.write("test_it.py", TEST)
    results: list[Ran] = []
    threads = [
        threading.Thread(target=lambda stage=stage: results.append(project.run(stage=stage, alone=False)))
        for stage in ("qa", "dev")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        result.ok()
    assert len(results) == 2
    lock = read(project.root / "envpar.lock")
    assert lock is not None
    assert sorted(lock.stages) == ["dev", "qa"]
    project.run(CI="true").ok()


def test_a_broken_lock_is_told_with_its_line(project: Project) -> None:
    project.write("envpar.lock", "version = 1\n<<<<<<< HEAD\n=======\n>>>>>>> topic\n")
    project.run().refused(f"{project.root}/envpar.lock:2: unresolved merge conflict", "[lock]", "envpar lock")
    project.write("envpar.lock", "version = 7\n")
    project.run("--env-update").refused("written by a newer pytest-envpar (lock version 7, this one reads 1)")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system with room for a few small files."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    size = ["-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)]
    if mount is None or subprocess.run([mount, *size], capture_output=True, check=False).returncode != 0:
        missing("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_neither_the_run_nor_the_lock(project: Project, full_disk: Path) -> None:
    project.stage(top=f'lockfile = "{full_disk}/envpar.lock"')
    project.suite(TEST).ok()
    before = (full_disk / "envpar.lock").read_bytes()
    (full_disk / "filler").write_bytes(b"x" * 4096)
    project.stage("env = {}", top=f'lockfile = "{full_disk}/envpar.lock"', name="dev")
    told = project.run(stage="dev").ok().err
    assert "envpar: stage dev is not locked: " in told
    assert "No space left on device" in told
    project.run("--env-update", stage="dev").refused("No space left on device", "[lock]", "make room")
    assert (full_disk / "envpar.lock").read_bytes() == before
    assert sorted(each.name for each in full_disk.iterdir()) == ["envpar.lock", "filler"]
