"""The container's own layer, read as a folder: what the kernel's overlay format means."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.drift import upper

if TYPE_CHECKING:
    from pathlib import Path

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="making whiteouts and trusted xattrs needs root")


def told(folder: Path, *lower: Path) -> list[tuple[str, str]]:
    return [(str(change.path), change.kind) for change in upper.scan(folder, lower)]


def tree(root: Path, *names: str) -> Path:
    root.mkdir()
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    return root


def test_added_and_modified(tmp_path: Path) -> None:
    lower = tree(tmp_path / "lower", "etc/passwd")
    top = tree(tmp_path / "upper", "etc/passwd", "etc/new", "opt/app/x")
    assert told(top, lower) == [
        ("/etc", "modified"),
        ("/etc/new", "added"),
        ("/etc/passwd", "modified"),
        ("/opt", "added"),
        ("/opt/app", "added"),
        ("/opt/app/x", "added"),
    ]


def test_a_file_of_any_lower_layer_counts(tmp_path: Path) -> None:
    first, second = tree(tmp_path / "1", "a"), tree(tmp_path / "2", "b")
    assert told(tree(tmp_path / "upper", "a", "b"), first, second) == [("/a", "modified"), ("/b", "modified")]


def test_a_file_below_a_file_is_not_seen(tmp_path: Path) -> None:
    first, second = tree(tmp_path / "1", "d"), tree(tmp_path / "2", "d/x")
    top = tree(tmp_path / "upper", "d/x")
    assert told(top, first, second) == [("/d", "modified"), ("/d/x", "added")]


@needs_root
def test_whiteouts_remove_what_is_below_and_nothing_else(tmp_path: Path) -> None:
    lower = tree(tmp_path / "lower", "bin/true")
    top = tree(tmp_path / "upper", "bin/")
    os.mknod(top / "bin" / "true", 0o600 | 0o020000, os.makedev(0, 0))
    os.mknod(top / "gone-before", 0o600 | 0o020000, os.makedev(0, 0))
    assert told(top, lower) == [("/bin", "modified"), ("/bin/true", "removed")]


@needs_root
def test_an_opaque_directory_hides_the_old_entries(tmp_path: Path) -> None:
    lower = tree(tmp_path / "lower", "d/old", "d/both")
    top = tree(tmp_path / "upper", "d/both", "d/new")
    try:
        os.setxattr(top / "d", "trusted.overlay.opaque", b"y")
    except OSError:
        pytest.skip("this file system keeps no trusted xattrs")
    assert told(top, lower) == [
        ("/d", "modified"),
        ("/d/old", "removed"),
        ("/d/both", "modified"),
        ("/d/new", "added"),
    ]


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(upper.UnreadableError):
        upper.scan(tmp_path / "absent", ())
