"""What happens in folders, as the agent sees it through the kernel, and what is left to it without that."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.worker.agent import inotify, limits
from pytest_envpar.worker.agent import tree as trees
from pytest_envpar.worker.agent.audit import Audit, difference
from pytest_envpar.worker.agent.tree import Change, Tree

if TYPE_CHECKING:
    from collections.abc import Callable


class Place:
    """A folder under watch."""

    def __init__(self, root: Path, limit: int | None = None) -> None:
        self.root = root
        self.tree = Tree([os.fsencode(root)], limit=limit)
        self.audit = Audit(self.tree, os.fsencode(root), b"/own")

    def look(self) -> list[str]:
        """What is not as it was: ``+ a``, ``~ a content``, ``- a``."""
        found = []
        for change in self.tree.changes():
            name = os.fsdecode(os.path.relpath(change.path, os.fsencode(self.root)))
            if change.kind == "changed":
                attributes = difference(change, self.audit.before.get(change.path))
                found += [f"~ {name} {', '.join(attributes)}"] if attributes else []
            else:
                found.append(f"{'+' if change.kind == 'created' else '-'} {name}")
        self.audit.clear()
        return sorted(found)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder with ``file`` and ``folder/inner/deep``."""
    (tmp_path / "file").write_text("content")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    deep = tmp_path / "folder" / "inner" / "deep"
    deep.write_text("deep")
    await_tick(deep)
    return Place(tmp_path)


def await_tick(path: Path) -> None:
    """Until the clock of the kernel's stamps has moved: within one tick they tell nothing."""
    while trees.now_ns() <= path.stat().st_ctime_ns:
        pass


def sh(root: Path, script: str) -> None:
    """As a child process does it, of which Python's own events say nothing."""
    subprocess.run(["/bin/sh", "-c", script], cwd=root, check=True)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        (":", []),
        ("echo > new", ["+ new"]),
        ("echo > new && rm new", []),
        ("echo >> file", ["~ file content"]),
        ("rm file", ["- file"]),
        ("rm file && echo other > file", ["~ file content"]),
        ("mv file other", ["+ other", "- file"]),
        ("mkdir -p a/b && echo > a/b/c", ["+ a", "+ a/b", "+ a/b/c"]),
        ("rm -r folder", ["- folder", "- folder/inner", "- folder/inner/deep"]),
        (
            "mv folder moved && echo > moved/inner/new",
            [
                *("+ moved", "+ moved/inner", "+ moved/inner/deep", "+ moved/inner/new"),
                *("- folder", "- folder/inner", "- folder/inner/deep"),
            ],
        ),
        ("rm -r folder && mkdir folder", ["- folder/inner", "- folder/inner/deep"]),
        ("rm -r folder && echo > folder", ["- folder/inner", "- folder/inner/deep", "~ folder content"]),
        ("chmod 700 folder", ["~ folder mode, owner or times"]),
        ("chmod 700 file", ["~ file mode, owner or times"]),
        ("mkdir __pycache__ pytest-of-me && echo > __pycache__/a && echo > pytest-of-me/b", []),
        ("ln -s nowhere link && mkfifo pipe", ["+ link", "+ pipe"]),
        ("printf '' > \"$(printf 'n\\n\\033\\377')\"", ["+ n\n\x1b\udcff"]),
        (": >> file", []),
    ],
)
def test_what_a_child_did(script: str, found: list[str], place: Place) -> None:
    sh(place.root, script)
    assert place.look() == sorted(found)
    assert place.look() == []


def test_new_folders_are_watched_too(place: Place) -> None:
    sh(place.root, "mkdir -p a/b && mv folder moved")
    place.look()
    sh(place.root, "echo > a/b/c && echo > moved/inner/new && rm moved/inner/deep")
    assert place.look() == ["+ a/b/c", "+ moved/inner/new", "- moved/inner/deep"]


def wrote(path: Path, flags: int = os.O_WRONLY | os.O_TRUNC) -> tuple[str, tuple[object, ...]]:
    """The event of opening a file for writing."""
    return "open", (str(path), "w", flags)


@pytest.mark.parametrize(
    ("act", "found"),
    [
        (lambda path: path.write_text("content"), []),
        (lambda path: path.write_text("CONTENT"), ["~ file content"]),
        (lambda path: path.chmod(0o600), ["~ file mode"]),
        (os.utime, []),
        (lambda path: (path.unlink(), path.write_text("content")), []),
        (lambda path: (path.unlink(), path.mkdir()), ["~ file type"]),
    ],
)
def test_what_was_put_back_is_no_change(
    act: Callable[[Path], object], found: list[str], place: Place
) -> None:
    path = place.root / "file"
    path.chmod(0o644)
    place.look()
    place.audit.hear(*wrote(path))
    act(path)
    assert place.look() == found


def test_before_is_before_anybody(place: Place) -> None:
    """Once a child has written to a file, what it is like when Python writes to it says nothing."""
    sh(place.root, "echo > file")
    place.audit.hear(*wrote(place.root / "file"))
    (place.root / "file").write_text("\n")
    assert place.look() == ["~ file content"]


def test_an_overflow_is_made_up_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    sh(place.root, "echo > earlier")
    place.look()
    await_tick(place.root / "earlier")
    sh(place.root, "echo >> file && echo > new && rm folder/inner/deep && mkdir a && echo > a/b")
    queue = place.tree._queue
    assert queue is not None
    monkeypatch.setattr(queue, "read", lambda: iter([(-1, inotify.OVERFLOW, b"")]))
    found = place.look()
    monkeypatch.undo()
    assert found == ["+ a", "+ a/b", "+ new", "- folder/inner/deep", "~ file content"]
    place.look()
    sh(place.root, "echo > a/c")
    assert place.look() == ["+ a/c"]


def test_without_the_kernel_the_process_itself_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(inotify, "Inotify", refuse)
    place = Place(tmp_path)
    assert not place.tree.complete
    assert "Too many open files" in place.tree.problem
    (tmp_path / "old").write_text("1")
    place.audit.hear(*wrote(tmp_path / "old"))
    place.audit.hear(*wrote(tmp_path / "new", os.O_WRONLY | os.O_CREAT))
    place.audit.hear("os.remove", (str(tmp_path / "absent"), -1))
    root = os.fsencode(tmp_path)
    assert {path: before is not None for path, before in place.audit.before.items()} == {
        root + b"/old": True,
        root + b"/new": False,
        root + b"/absent": False,
    }
    assert sorted(place.tree.touched) == [root + b"/absent", root + b"/new", root + b"/old"]


def test_more_folders_than_allowed(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).mkdir()
    place = Place(tmp_path, limit=3)
    assert place.tree.problem == "only 3 folders are watched, which is the limit"
    sh(tmp_path, "mkdir new && echo > new/a")
    assert place.look() == ["+ new", "+ new/a"]


def test_evidence_is_what_was_left_before(place: Place) -> None:
    class Left:
        kind = "created"

    class Deleted:
        kind = "deleted"

    root = os.fsencode(place.root)
    place.audit.look_out(root + b"/file", Left())
    place.audit.look_out(root + b"/folder/gone", Deleted())
    place.tree.heed(root + b"/file")
    for path in ("file", "folder/../file", "other/file"):
        place.audit.hear("open", (str(place.root / path), "r", os.O_RDONLY))
    place.audit.hear("open", (root + b"/folder/gone", "r", os.O_RDONLY))
    place.audit.hear("os.listdir", (str(place.root / "nowhere"),))
    assert place.audit.seen == {root + b"/file": "opened", root + b"/folder/gone": "tried to open"}
    place.audit.clear()
    place.audit.hear("os.scandir", (str(place.root),))
    place.audit.hear("os.mkdir", (str(place.root / "file"), 0o777, -1))
    assert place.audit.seen == {root + b"/file": "listed"}
    sh(place.root, "cat file > /dev/null")
    place.tree.drain()
    assert root + b"/file" in place.tree.opened


@pytest.mark.parametrize("root", ["/", "/d", "project", "."])
def test_our_own_files_are_never_noted(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the project is. Each entry in our journal would have all of it read otherwise."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    audit = Audit(Tree([]), os.fsencode(tmp_path / root), os.fsencode(tmp_path / "own"))
    (tmp_path / "own.journal").write_text("ours")
    audit.hear(*wrote(tmp_path / "own.journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    assert audit.before == {}


def test_a_project_below_pytests_own_folders_is_noted_and_what_is_beside_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pytests = tmp_path / "pytest-of-me"
    for folder in ("project", "project-2"):
        (pytests / folder).mkdir(parents=True)
        (pytests / folder / "file").write_text("")
    own = os.fsencode(tmp_path / "own")

    def noted(root: str | Path) -> set[bytes]:
        audit = Audit(Tree([]), os.fsencode(root), own)
        audit.hear(*wrote(Path("/dev/null")))
        for folder in ("project", "project-2"):
            audit.hear(*wrote(pytests / folder / "file"))
        audit.hear("os.chmod", (str(pytests / "project"), 0o755, -1))
        return set(audit.before)

    project = os.fsencode(pytests / "project")
    assert noted(pytests / "project") == {project, project + b"/file"}
    for root in ("/", "/d", tmp_path):
        assert noted(root) == set()


def test_a_bad_event_disturbs_nobody(place: Place) -> None:
    place.audit.look_out(os.fsencode(place.root) + b"/file", object())
    for args in ((), (None, None, None), (object(), "w", os.O_WRONLY), (str(place.root / "file"), "r", 0)):
        place.audit.hear("open", args)
    place.audit.hear("os.rename", ("a",))
    assert place.look() == []


def test_places_are_where_writing_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    def mount(path: str, kind: str = "ext4", *, read_only: bool = False) -> limits.Mount:
        return limits.Mount(path, kind, read_only, None)

    told = [
        mount("/", "overlay"),
        *(mount("/proc", "proc"), mount("/sys", "sysfs"), mount("/dev", "tmpfs"), mount("/dev/shm", "tmpfs")),
        *(
            mount("/proc/acpi", "tmpfs"),
            mount("/.envpar/tmp", "tmpfs"),
            mount("/etc/hosts"),
            mount("/project", "overlay"),
        ),
        mount("/data", read_only=True),
    ]
    monkeypatch.setattr(trees, "mounts", lambda: told)
    roots, outside = trees.places(["/project", "/data/x", "/tmp"])
    assert roots == [b"/project", b"/tmp", b"", b"/dev/shm", b"/etc/hosts", b"/project"]
    assert {b"/proc", b"/data", b"/project", b"/.envpar"} <= outside
    told[0] = mount("/", "overlay", read_only=True)
    assert trees.places(["/tmp"])[0][1:] == [b"/dev/shm", b"/etc/hosts", b"/project"]


def test_a_moved_tree_tells_of_its_new_place(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    away = tmp_path_factory.mktemp("away")
    shutil.move(place.root / "folder", away / "folder")
    assert place.look() == ["- folder", "- folder/inner", "- folder/inner/deep"]
    (away / "folder" / "inner" / "new").write_text("")
    assert place.look() == []


def test_changes_say_what_the_kernel_told(place: Place) -> None:
    sh(place.root, "echo >> file")
    (change,) = place.tree.changes()
    assert isinstance(change, Change)
    assert change.bits & inotify.MODIFY
    assert change.now is not None
