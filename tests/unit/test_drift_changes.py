"""Which changes count as the suite's, and how they are told."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from pytest_envpar.drift.changes import Change, Changes, Kind, left_behind, own_changes
from pytest_envpar.drift.render import detail_lines, escaped, summary_line
from pytest_envpar.engine.values.files import LayerFolders

if TYPE_CHECKING:
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.files import PathChange


def told(*lines: str) -> list[Change]:
    kinds: dict[str, Kind] = {"A": "added", "C": "modified", "D": "removed"}
    return [Change(PurePosixPath(line[2:]), kinds[line[0]]) for line in lines]


def names(changes: Changes) -> list[str]:
    return [f"{change.kind[0]} {change.path}" for change in changes]


def test_what_the_suite_wrote_counts() -> None:
    changes = own_changes(
        told("C /etc", "C /etc/foo", "C /tmp", "A /tmp/x", "C /usr", "C /usr/bin", "D /usr/bin/bar")
    )
    assert names(changes) == ["m /etc/foo", "a /tmp/x", "r /usr/bin/bar"]
    assert (changes.count("added"), changes.count("modified"), changes.count("removed")) == (1, 1, 1)


@pytest.mark.parametrize(
    "path",
    [
        *("/.envpar", "/.envpar/tmp", "/envpar/proj", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"),
        *(
            "/etc/mtab",
            "/.dockerenv",
            "/run/.containerenv",
            "/dev/console",
            "/proc/x",
            "/sys",
            "/run/secrets",
        ),
    ],
)
def test_what_engines_and_we_put_there_does_not(path: str) -> None:
    parents = [f"C {parent}" for parent in PurePosixPath(path).parents if str(parent) != "/"]
    assert not own_changes(told(f"A {path}", *parents))


def test_a_folder_of_its_own_mode_counts() -> None:
    assert names(own_changes(told("C /opt"))) == ["m /opt"]


def test_an_added_folder_is_told_with_what_is_in_it() -> None:
    assert names(own_changes(told("A /opt/x", "A /opt/x/y", "C /opt"))) == ["a /opt/x", "a /opt/x/y"]


def test_mount_points_and_the_folders_made_for_them_do_not_count() -> None:
    changes = told(
        "A /data", "A /data/proj", "A /data/proj/inside", "C /var", "A /var/spool", "A /data/other"
    )
    hidden = (PurePosixPath("/data/proj"), PurePosixPath("/var/spool"))
    assert names(own_changes(changes, hidden)) == ["a /data/other"]


def test_a_removed_folder_above_a_mount_point_counts() -> None:
    assert names(own_changes(told("D /data"), [PurePosixPath("/data/proj")])) == ["r /data"]


def test_the_root_as_a_mount_point_hides_nothing() -> None:
    assert names(own_changes(told("A /x"), [PurePosixPath("/")])) == ["a /x"]


def test_a_name_that_begins_like_a_hidden_one_counts() -> None:
    assert names(own_changes(told("A /.envparx", "A /etc/hosts.bak"))) == ["a /.envparx", "a /etc/hosts.bak"]


def test_bytecode_is_noise_of_its_own() -> None:
    changes = own_changes(told("A /lib/__pycache__", "A /lib/__pycache__/a.pyc", "A /lib/b.py"))
    assert names(changes) == ["a /lib/b.py"]
    assert summary_line(changes) == (
        "drift: suite left 1 change in the container: + /lib/b.py (and 1 bytecode file)"
    )


def test_nothing_is_said_in_words() -> None:
    assert summary_line(Changes()) == "drift: suite left nothing behind in the container"
    assert detail_lines(Changes()) == []


def test_the_summary_names_the_first_and_counts_the_rest() -> None:
    changes = Changes(tuple(told("A /a", "C /b", "D /c", "A /d", "A /e")))
    assert summary_line(changes) == (
        "drift: suite left 5 changes in the container: + /a, ~ /b, - /c, … 2 more"
    )
    assert summary_line(changes, limit=5).endswith("- /c, + /d, + /e")


def test_details_are_bounded() -> None:
    changes = Changes(tuple(told(*(f"A /{number:04}" for number in range(20)))))
    lines = detail_lines(changes, limit=5)
    assert lines[0] == "  + /0000"
    assert lines[-1] == "  … and 15 more"
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/tmp/\x1b[31mred", "/tmp/\\x1b[31mred"),
        ("/a\nb\tc", "/a\\nb\\tc"),
        ("/\udcff", "/\\udcff"),
        ("/\u202egpj", "/\\u202egpj"),
        ("/\x9b1m", "/\\x9b1m"),
        ("/größe 大", "/größe 大"),
    ],
)
def test_names_cannot_speak_to_the_terminal(name: str, shown: str) -> None:
    assert escaped(name) == shown
    assert shown in summary_line(Changes((Change(PurePosixPath(name), "added"),)))


def test_long_names_are_cut() -> None:
    assert len(escaped("/" + "x" * 5000)) == 200


def test_folders_of_tmp_path_are_noise_and_counted() -> None:
    told = [Change(PurePosixPath("/tmp/pytest-of-root"), "added"), Change(PurePosixPath("/tmp/x"), "added")]
    changes = own_changes(told)
    assert [str(change.path) for change in changes] == ["/tmp/x"]
    assert summary_line(changes).endswith("+ /tmp/x (and 1 in pytest's tmp_path)")


def test_what_differs_is_told_in_the_details() -> None:
    changes = Changes((Change(PurePosixPath("/etc/a"), "modified", ("content", "mode")), *told("A /b")))
    assert summary_line(changes) == "drift: suite left 2 changes in the container: ~ /etc/a, + /b"
    assert detail_lines(changes) == ["  ~ /etc/a (content, mode)", "  + /b"]


def test_a_folder_whose_own_attributes_differ_counts_beside_what_is_in_it() -> None:
    folder = Change(PurePosixPath("/opt"), "modified", ("mode",))
    assert names(own_changes([folder, *told("A /opt/x")])) == ["m /opt", "a /opt/x"]


class Local:
    """An engine whose layers are folders of this machine."""

    def __init__(self, upper: Path, *lower: Path) -> None:
        self.info = SimpleNamespace(kind="docker")
        self._folders = LayerFolders(upper, lower)

    def layer_folders(self, _: str) -> LayerFolders:
        return self._folders

    def changes(self, _: str) -> tuple[PathChange, ...]:
        raise AssertionError("the engine need not be asked")


def test_a_file_that_was_only_written_again_is_no_change(tmp_path: Path) -> None:
    for name, content in (("lower", "before"), ("upper", "before")):
        (tmp_path / name / "etc").mkdir(parents=True)
        (tmp_path / name / "etc/again").write_text(content)
        (tmp_path / name / "etc/mode").write_text(content)
    (tmp_path / "upper/etc/mode").chmod(0o600)
    (tmp_path / "upper/etc/new").write_text("new")
    engine = cast("Engine", Local(tmp_path / "upper", tmp_path / "lower"))
    found = left_behind(engine, "c")
    assert [(str(each.path), each.kind, each.attributes) for each in found] == [
        ("/etc/mode", "modified", ("mode",)),
        ("/etc/new", "added", ()),
    ]
