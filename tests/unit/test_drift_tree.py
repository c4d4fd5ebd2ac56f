"""Single paths of a tree: links stay inside, nothing but regular files is opened, reads have a limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_envpar.drift.looking import LayersTree
from pytest_envpar.drift.tree import TooLargeError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text("Package: a\n")
    (tmp_path / "secret").write_text("host")
    return root


def test_files_and_folders(root: Path) -> None:
    tree = LayersTree([root])
    assert tree.read("/var/lib/dpkg/status", 100) == b"Package: a\n"
    assert tree.read("/var/lib/dpkg", 100) is None
    assert tree.read("/nothing", 100) is None
    assert tree.list("/var/lib") == ("dpkg",)
    assert tree.list("/var/lib/dpkg/status") == ()
    assert tree.list("/nothing") == ()
    assert tree.list("/") == ("var",)


def test_a_file_above_the_limit(root: Path) -> None:
    with pytest.raises(TooLargeError, match="/var/lib/dpkg/status is larger than 4 bytes"):
        LayersTree([root]).read("/var/lib/dpkg/status", 4)


@pytest.mark.parametrize(
    "target", ["/var/lib/dpkg", "var/lib/dpkg", "../../../var/lib/dpkg", "./var/../var/lib/dpkg/."]
)
def test_links_are_followed_inside(root: Path, target: str) -> None:
    (root / "db").symlink_to(target)
    assert LayersTree([root]).read("/db/status", 100) == b"Package: a\n"
    assert LayersTree([root]).list("/db") == ("status",)


def test_links_do_not_lead_out(root: Path) -> None:
    (root / "absolute").symlink_to(root.parent / "secret")
    (root / "up").symlink_to("../secret")
    (root / "folder").symlink_to("..")
    tree = LayersTree([root])
    assert tree.read("/absolute", 100) is None
    assert tree.read("/up", 100) is None
    assert tree.read("/folder/secret", 100) is None
    assert tree.read("/../secret", 100) is None


def test_links_in_a_circle(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    (root / "c").symlink_to("c/c/c")
    tree = LayersTree([root])
    assert tree.read("/a", 100) is None
    assert tree.list("/c") == ()


def test_a_fifo_is_not_opened(root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert LayersTree([root]).read("/pipe", 100) is None


def test_names_that_are_not_utf8(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root) + b"/\xff")).write_bytes(b"x")
    assert LayersTree([root]).list("/") == ("var", "\udcff")
    assert LayersTree([root]).read("/\udcff", 9) == b"x"
