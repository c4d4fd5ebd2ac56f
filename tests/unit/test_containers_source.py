"""How the project reaches a container, and which files a copy takes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from pytest_envpar.containers.project_files import project_entries, project_files
from pytest_envpar.containers.source import PathFacts, SourcePlan, plan_source
from pytest_envpar.engine.values.engine import EngineInfo
from pytest_envpar.errors import StageError, UsageError


def engine(
    kind: str = "docker", *, local: bool = True, native_overlay: bool = True, rootless: bool = False
) -> EngineInfo:
    return EngineInfo(
        kind="podman" if kind == "podman" else "docker",
        version="1",
        api_version="1.41",
        url="unix:///e.sock" if local else "tcp://far:2376",
        local=local,
        rootless=rootless,
        native_overlay=native_overlay and kind == "docker",
        cgroup_version=1,
        os="linux",
        architecture="amd64",
        id="id",
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "proj"
    made.mkdir()
    return made


ME = PathFacts(uid=os.getuid(), gid=os.getgid())


def test_an_overlay_at_its_own_path_is_the_silent_default(root: Path) -> None:
    plan = plan_source(engine(), PathFacts(), None, root)
    assert (plan.mode, plan.why, plan.native_overlay) == ("overlay", None, True)
    assert plan.container_root == PurePosixPath(root)
    assert not plan.mapped
    assert plan.owner is None


def test_podman_overlays_by_itself(root: Path) -> None:
    plan = plan_source(engine("podman"), PathFacts(), None, root)
    assert (plan.mode, plan.native_overlay) == ("overlay", False)


@pytest.mark.parametrize("mode", ["overlay", "mount", "mount-rw", "copy"])
def test_what_the_user_asks_for_is_taken(root: Path, mode: str) -> None:
    plan = plan_source(engine(), ME, mode, root)  # type: ignore[arg-type]
    assert (plan.mode, plan.why) == (mode, None)


def test_a_remote_engine_gets_a_copy_and_says_so(root: Path) -> None:
    plan = plan_source(engine(local=False), PathFacts(), None, root)
    assert plan.mode == "copy"
    assert plan.why == "source copied: the engine is not on this machine"
    assert plan_source(engine(local=False), PathFacts(), "copy", root).why is None


@pytest.mark.parametrize("mode", ["overlay", "mount", "mount-rw"])
def test_a_remote_engine_cannot_mount(root: Path, mode: str) -> None:
    with pytest.raises(UsageError, match="tcp://far:2376 is a remote one") as caught:
        plan_source(engine(local=False), PathFacts(), mode, root)  # type: ignore[arg-type]
    assert 'source = "copy"' in str(caught.value)


def test_an_engine_without_overlays_gets_a_copy(root: Path) -> None:
    weak = engine(native_overlay=False)
    assert plan_source(weak, PathFacts(), None, root).mode == "copy"
    with pytest.raises(UsageError, match="cannot mount an overlay"):
        plan_source(weak, PathFacts(), "overlay", root)


def test_a_user_that_is_not_the_owner_gets_a_copy(root: Path) -> None:
    other = PathFacts(uid=os.getuid() + 1, gid=7)
    plan = plan_source(engine(), other, None, root)
    assert plan.mode == "copy"
    assert (plan.uid, plan.gid) == (other.uid, 7)
    assert plan.why is not None
    assert "is not the owner of the project" in plan.why
    assert plan_source(engine(), other, "overlay", root).mode == "overlay"


def test_the_root_keeps_the_hosts_owner_and_mode_for_other_users(root: Path) -> None:
    root.chmod(0o750)
    plan = plan_source(engine(), PathFacts(uid=4321), "overlay", root)
    assert plan.owner == (os.getuid(), root.stat().st_gid, 0o750)


def test_rootless_users_are_shifted(root: Path) -> None:
    facts = PathFacts(uid=root.stat().st_uid or 5)
    os_owner_is_me = plan_source(engine("podman", rootless=True), facts, None, root)
    assert os_owner_is_me.mode == "copy"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (PathFacts(state="occupied"), "the image has files at its path"),
        (PathFacts(uid=os.getuid(), reachable=False), "cannot reach its path"),
    ],
)
def test_another_path_is_used_and_said(root: Path, facts: PathFacts, reason: str) -> None:
    plan = plan_source(engine(), facts, None, root)
    assert plan.container_root == PurePosixPath("/envpar/proj")
    assert plan.mapped
    assert plan.why is not None
    assert reason in plan.why
    assert "/envpar/proj" in plan.why


def test_an_empty_folder_of_the_image_is_covered(root: Path) -> None:
    assert not plan_source(engine(), PathFacts(state="empty"), None, root).mapped


@pytest.mark.parametrize("path", ["/", "/proc", "/dev"])
def test_the_containers_own_folders_are_not_covered(path: str) -> None:
    assert plan_source(engine(), PathFacts(), "mount", Path(path)).mapped


def test_workdir_is_where_the_project_goes(root: Path) -> None:
    plan = plan_source(engine(), PathFacts(state="occupied"), None, root, workdir=PurePosixPath("/src"))
    assert (plan.container_root, plan.why) == (PurePosixPath("/src"), None)
    with pytest.raises(StageError, match="workdir"):
        plan_source(engine(), PathFacts(), None, root, workdir=PurePosixPath("/"))


@pytest.mark.parametrize("name", ["a b", "a,b", "a:b", "a\\b", "größe"])
def test_odd_paths_are_overlaid_on_docker(tmp_path: Path, name: str) -> None:
    odd = tmp_path / name
    odd.mkdir()
    plan = plan_source(engine(), PathFacts(), None, odd)
    assert (plan.mode, plan.mapped) == ("overlay", False)


@pytest.mark.parametrize("name", ["a,ro", "a,nosuid,b"])
def test_a_path_that_reads_as_an_option_is_copied(tmp_path: Path, name: str) -> None:
    odd = tmp_path / name
    odd.mkdir()
    plan = plan_source(engine(), PathFacts(), None, odd)
    assert plan.mode == "copy"
    assert plan.why is not None
    assert "mount option" in plan.why
    assert plan_source(engine(), PathFacts(), "mount", odd).mode == "mount"


@pytest.mark.parametrize("name", ["a,b", "a:b", "a\\b", 'a"b'])
def test_podman_gets_odd_paths_as_a_copy_elsewhere(tmp_path: Path, name: str) -> None:
    odd = tmp_path / name
    odd.mkdir()
    plan = plan_source(engine("podman"), PathFacts(), None, odd)
    assert (plan.mode, plan.container_root) == ("copy", PurePosixPath("/envpar/a_b"))
    with pytest.raises(UsageError, match="mount-rw"):
        plan_source(engine("podman"), PathFacts(), "mount-rw", odd)


@pytest.mark.parametrize("raw", [b"\xff", b"a\nb"])
def test_paths_that_no_engine_takes_are_copied_elsewhere(tmp_path: Path, raw: bytes) -> None:
    odd = tmp_path / os.fsdecode(raw)
    odd.mkdir()
    plan = plan_source(engine(), PathFacts(), None, odd)
    assert (plan.mode, plan.mapped) == ("copy", True)
    str(plan.container_root).encode()


def test_a_path_too_long_for_an_overlay_is_copied(tmp_path: Path) -> None:
    long = tmp_path
    while len(str(long)) < 3600:
        long = long / ("x" * 200)
    long.mkdir(parents=True)
    plan = plan_source(engine(), PathFacts(), None, long)
    assert plan.mode == "copy"


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


def fill(root: Path) -> None:
    for name in ("a.py", "sub/b.py", "ignored.log", ".venv/x", "__pycache__/c.pyc"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(name)


def test_a_copy_takes_tracked_and_unignored_files(root: Path) -> None:
    fill(root)
    (root / ".gitignore").write_text("*.log\n.venv\n__pycache__\n")
    git(root, "init", "-q")
    git(root, "add", "a.py", ".gitignore")
    (root / "ignored.log").write_text("x")
    git(root, "add", "-f", "ignored.log")
    (root / "gone.py").write_text("")
    git(root, "add", "gone.py")
    (root / "gone.py").unlink()
    taken = project_files(root)
    assert taken == [".gitignore", "a.py", "gone.py", "ignored.log", "sub/b.py"]
    entries = {entry.name: entry for entry in project_entries(root, 5, 6)}
    assert sorted(entries) == [".gitignore", "a.py", "ignored.log", "sub", "sub/b.py"]
    assert {(entry.uid, entry.gid) for entry in entries.values()} == {(5, 6)}


def test_a_project_inside_a_repository_takes_its_own_part(root: Path) -> None:
    fill(root)
    git(root, "init", "-q")
    assert project_files(root / "sub") == ["b.py"]


def test_a_hook_of_git_around_us_does_not_mislead(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root)
    git(root, "init", "-q")
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    assert "a.py" in project_files(root)


def test_submodules_come_along(root: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    git(inner, "init", "-q")
    (inner / "i.py").write_text("i")
    git(inner, "add", "i.py")
    git(inner, "commit", "-qm", "x")
    git(root, "init", "-q")
    git(root, "submodule", "add", "-q", str(inner), "lib/inner")
    assert "lib/inner/i.py" in project_files(root)
    assert not any(".git/" in name for name in project_files(root))


def test_without_git_all_but_rebuildable_folders_come(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root)
    (root / "dirlink").symlink_to("sub")
    monkeypatch.setenv("PATH", "")
    assert project_files(root) == ["a.py", "dirlink", "ignored.log", "sub/b.py"]


def test_links_modes_and_names_are_kept(root: Path) -> None:
    (root / "run.sh").write_text("x")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("/etc/passwd")
    odd = os.fsdecode(b"\xff.txt")
    (root / odd).write_text("odd")
    os.mkfifo(root / "pipe")
    git(root, "init", "-q")
    entries = {entry.name: entry for entry in project_entries(root, 0, 0)}
    assert (entries["link"].kind, entries["link"].target) == ("link", "/etc/passwd")
    assert entries["run.sh"].mode == 0o755
    assert odd in entries
    assert "pipe" not in entries


def test_plans_are_values(root: Path) -> None:
    first = plan_source(engine(), PathFacts(), None, root)
    assert first == plan_source(engine(), PathFacts(), None, root)
    assert isinstance(hash(first), int)
    assert isinstance(first, SourcePlan)
