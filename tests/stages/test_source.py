"""How the project gets in, what comes back, and what is said about what stays behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .projects import Project

pytestmark = pytest.mark.engine

WRITING = """
    import pathlib
    import lib.code
    def test_write():
        pathlib.Path("written.txt").write_text("inside")
        pathlib.Path("data.txt").write_text("changed")
        pathlib.Path("gone.txt").unlink()
        pathlib.Path("reports/deep").mkdir(parents=True)
        pathlib.Path("reports/deep/r.xml").write_text("<r/>")
"""


@pytest.fixture
def tree(project: Project) -> Project:
    """A project with files that its suite changes."""
    project.write("data.txt", "host")
    project.write("gone.txt", "host")
    project.write("lib/__init__.py", "")
    project.write("lib/code.py", "X = 1\n")
    project.write("test_it.py", WRITING)
    return project


def test_overlay_keeps_the_host_clean(tree: Project) -> None:
    tree.stage(top='source = "overlay"')
    before = tree.snapshot()
    result = tree.run().ok()
    assert "source overlay" in result.out
    assert tree.snapshot() == before
    assert tree.run().ok().line == "1 passed"  # every run begins with the host's tree


def test_the_cache_directory_is_the_hosts(tree: Project) -> None:
    tree.stage(top='source = "overlay"')
    more = "        assert not pathlib.Path('.pytest_cache').exists()\n        assert 0\n"
    tree.write("test_it.py", WRITING.rstrip(" ") + more)
    result = tree.run()
    assert result.line.startswith("1 failed"), result.text
    cached = tree.root / ".pytest_cache" / "v" / "cache" / "lastfailed"
    assert "test_it.py::test_write" in cached.read_text()
    assert "run-last-failure: rerun previous 1 failure" in tree.run("--lf").out


def test_mount_is_read_only(tree: Project) -> None:
    tree.stage(top='source = "mount"')
    tree.write(
        "test_it.py",
        """
        import errno, pathlib, pytest
        def test_read_only(tmp_path):
            assert pathlib.Path("data.txt").read_text() == "host"
            with pytest.raises(OSError) as info:
                pathlib.Path("data.txt").write_text("x")
            assert info.value.errno == errno.EROFS
            (tmp_path / "x").write_text("fine")
        """,
    )
    before = tree.snapshot()
    assert "source mount" in tree.run().ok().out
    assert tree.snapshot() == before


def test_mount_rw_writes_to_the_host(tree: Project) -> None:
    tree.stage(top='source = "mount-rw"')
    tree.run().ok()
    assert (tree.root / "written.txt").read_text() == "inside"
    assert (tree.root / "data.txt").read_text() == "changed"
    assert not (tree.root / "gone.txt").exists()
    assert not list(tree.root.rglob("__pycache__")), "bytecode of another Python in the host's tree"


def test_copy_takes_what_git_knows(tree: Project) -> None:
    tree.stage(top='source = "copy"')
    tree.write(".gitignore", "ignored.txt\n")
    tree.write("ignored.txt", "")
    tree.write("tool.sh", "#!/bin/sh\n").chmod(0o755)
    (tree.root / "link").symlink_to("data.txt")
    os.system(f"git -C '{tree.root}' init -q && git -C '{tree.root}' add data.txt lib")
    tree.write(
        "test_it.py",
        WRITING
        + """
    def test_what_is_here():
        assert pathlib.Path("link").readlink() == pathlib.Path("data.txt")
        assert pathlib.Path("tool.sh").stat().st_mode & 0o111
        assert not pathlib.Path("ignored.txt").exists()
        assert not pathlib.Path(".git").exists()
    """,
    )
    before = tree.snapshot()
    assert "source copy" in tree.run().ok().out
    assert tree.snapshot() == before


def test_a_path_that_the_image_uses_is_not_covered(tree: Project, built: list[str]) -> None:
    """The image has files where the project is on the host."""
    tree.write(
        "docker/Dockerfile", f'FROM {tree.image}\nWORKDIR {tree.root}\nRUN ["touch", "of-the-image"]\n'
    )
    tree.stage('build = { dockerfile = "docker/Dockerfile" }')
    tree.write(
        "test_it.py",
        f"""
        import os
        def test_where():
            assert os.path.exists({str(tree.root / "of-the-image")!r})
            assert os.path.exists("data.txt")
            assert os.getcwd() == "/envpar/project"
        def test_fails():
            assert 0
        """,
    )
    result = tree.run()
    built += [word for word in result.err.split() if word.startswith("pytest-envpar/")]
    assert result.line == "1 failed, 1 passed", result.text
    assert "the project is at /envpar/project inside: the image has files at its path" in result.out
    assert "\ntest_it.py:8: AssertionError" in result.out


@pytest.mark.skipif(os.getuid() != 0, reason="needs a folder that others cannot enter")
def test_a_path_that_the_user_cannot_reach(make_project: Callable[[Path], Project], tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    project = make_project(closed / "project")
    project.stage('user = "1000"')
    project.write("lib.py", "X = 1\n")
    project.suite("import lib, os\ndef test_a(): assert os.getuid() == 1000 and lib.X == 1").ok()


@pytest.mark.skipif(os.getuid() != 0, reason="writes to /root")
def test_a_project_of_root_for_another_user(make_project: Callable[[Path], Project]) -> None:
    import shutil
    import tempfile
    from pathlib import Path

    folder = Path(tempfile.mkdtemp(dir="/root", prefix="envpar-test-"))
    try:
        project = make_project(folder / "project")
        for top in ("", 'source = "overlay"', 'source = "mount"'):
            project.stage('user = "1000"', top=top)
            result = project.suite(
                "import os\ndef test_a(): assert os.getuid() == 1000\ndef test_b(): assert 0"
            )
            if top == "":
                assert result.line == "1 failed, 1 passed", result.text
                assert "cannot reach its path" in result.out
                assert "\ntest_it.py:3: AssertionError" in result.out
            else:  # the folder's own mode decides whether another user can read it
                assert result.code in (1, 4), result.text
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        "ünï-çødé-路径",
        "a,b",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("x,ro,y", "per%cent #1", "quo'te\"s", "back\\slash")
        ),
        "co:lon",
    ],
)
def test_paths_with_unusual_names(name: str, make_project: Callable[[Path], Project], tmp_path: Path) -> None:
    project = make_project(tmp_path / name / "pro ject")
    before_test = project.write("sub dir/test_ä b.py", "def test_a():\n    assert 0\ndef test_b(): pass\n")
    before = project.snapshot()
    result = project.run("-v", f"--junitxml={tmp_path / 'junit.xml'}")
    assert result.line == "1 failed, 1 passed", result.text
    assert "sub dir/test_ä b.py:2: AssertionError" in result.out
    assert project.snapshot() == before
    assert project.run(f"{before_test}::test_b").ok().line == "1 passed"


# --- artifacts -------------------------------------------------------------------------------------------------


def test_artifacts_come_back_after_failures_too(tree: Project) -> None:
    tree.stage(top='artifacts = ["reports/**", "*.log"]')
    tree.write("old.log", "host")
    tree.write(
        "test_it.py",
        """
        import os, pathlib
        def test_write():
            pathlib.Path("reports/deep").mkdir(parents=True)
            pathlib.Path("reports/deep/r.xml").write_text("<r/>")
            pathlib.Path("new.log").write_bytes(b"\\x00\\xff")
            pathlib.Path("other.txt").write_text("not asked for")
            pathlib.Path("reports/evil").symlink_to("/etc/passwd")
            pathlib.Path("reports/up").symlink_to("../..")
            os.mkfifo("reports/fifo")
            assert 0
        """,
    )
    result = tree.run()
    assert result.code == 1
    assert "artifacts brought back" in result.out
    assert (tree.root / "reports/deep/r.xml").read_text() == "<r/>"
    assert (tree.root / "new.log").read_bytes() == b"\x00\xff"
    assert (tree.root / "old.log").read_text() == "host"
    assert not (tree.root / "other.txt").exists()
    assert [path.name for path in (tree.root / "reports").iterdir()] == ["deep"]


def test_artifacts_are_not_written_through_links(tree: Project, tmp_path: Path) -> None:
    """Inside it is a folder; on the host it is a link that leads out."""
    (tmp_path / "victim").mkdir()
    (tree.root / "reports").symlink_to(tmp_path / "victim")
    tree.stage(top='artifacts = ["reports/**"]')
    tree.write(
        "test_it.py",
        """
        import pathlib
        def test_write():
            folder = pathlib.Path("reports")
            folder.unlink()
            folder.mkdir()
            (folder / "x").write_text("x")
        """,
    )
    result = tree.run()
    assert "artifacts could not be brought back" in result.out
    assert list((tmp_path / "victim").iterdir()) == []


# --- which code is tested, and what stays ----------------------------------------------------------------------


def test_an_installed_copy_that_shadows_the_project_is_told(tree: Project, built: list[str]) -> None:
    tree.write("src/shadowed/__init__.py", "WHERE = 'project'\n")
    tree.write(
        "docker/Dockerfile",
        f"""\
        FROM {tree.image}
        COPY src/shadowed /usr/lib/python3/dist-packages/shadowed
        """,
    )
    tree.stage('build = { context = ".", dockerfile = "docker/Dockerfile" }')
    result = tree.suite("import shadowed\ndef test_a(): assert shadowed.__file__.startswith('/usr/lib')").ok()
    built += [word for word in result.err.split() if word.startswith("pytest-envpar/")]
    assert "the tests imported shadowed from /usr/lib/python3/dist-packages/shadowed" in result.out
    assert "src/shadowed" in result.out
    tree.write("pytest.ini", "[pytest]\npythonpath = src\n")
    result = tree.suite("import shadowed\ndef test_a(): assert 'src' in shadowed.__file__").ok()
    assert "the tests imported" not in result.out


def test_what_the_suite_leaves_is_counted_and_listed(project: Project) -> None:
    project.suite("def test_a(): pass")
    assert "envpar: drift: suite left nothing behind in the container" in project.run().out
    result = project.suite(
        """
        import os
        def test_a():
            for name in ("one", "two", "three", "four"):
                open(f"/opt/{name}", "w").close()
            with open("/etc/issue", "a") as file: file.write("x")
            os.unlink("/etc/debian_version")
            open("inside-the-project", "w").close()
            open("/dev/shm/x", "w").close()
        """
    )
    assert (
        "envpar: drift: suite left 6 changes in the container: - /etc/debian_version, ~ /etc/issue"
        in result.out
    )
    assert "… 3 more" in result.out
    assert "+ /opt/one\n" not in result.out
    listed = project.run("-v").out
    for line in (
        "  - /etc/debian_version",
        "  ~ /etc/issue (content)",
        *(f"  + /opt/{n}" for n in ("one", "two", "four")),
    ):
        assert f"\n{line}\n" in listed, listed
    assert "drift" not in project.run("-q").out


def test_without_git_everything_but_caches_is_copied(project: Project) -> None:
    project.stage(top='source = "copy"')
    project.write("__pycache__/x.cpython-311.pyc", "")
    project.write("kept.txt", "x")
    project.suite(
        """
        import os
        def test_a():
            assert os.path.exists("kept.txt")
        """
    ).ok()
