"""Looking into layers and archives at single paths: whiteouts, opaque folders, links, and what one pass keeps."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.drift.looking import KeptTree, LayersTree, kept_of
from pytest_envpar.drift.tree import TooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def tar(*members: tuple[str, str | bytes | None]) -> bytes:
    """A tar of ``(name, content)``; no content is a folder, ``-> x`` a symbolic link, ``= x`` a hard link."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as made:
        for name, content in members:
            info = tarfile.TarInfo(name)
            data = b""
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str) and content.startswith("-> "):
                info.type, info.linkname = tarfile.SYMTYPE, content[3:]
            elif isinstance(content, str) and content.startswith("= "):
                info.type, info.linkname = tarfile.LNKTYPE, content[2:]
            else:
                data = content.encode() if isinstance(content, str) else content
                info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def kept(*layers: bytes, layered: bool = False) -> KeptTree:
    pieces: Iterable[Iterable[bytes]] = ((layer,) for layer in layers)
    return KeptTree(pieces, lambda path: path != "", layered=layered)


def test_an_export_is_a_tree() -> None:
    tree = kept(
        tar(
            ("usr", None),
            ("usr/lib", None),
            ("lib", "-> usr/lib"),
            ("usr/lib/a", "x"),
            ("usr/lib/b", "= usr/lib/a"),
        )
    )
    assert tree.list("/") == ("lib", "usr")
    assert tree.list("/lib") == ("a", "b")
    assert tree.read("/lib/a", 10) == b"x"
    assert tree.read("/usr/lib/b", 10) == b"x"
    assert tree.read("/usr/lib", 10) is None
    assert tree.read("/none", 10) is None
    with pytest.raises(TooLargeError):
        tree.read("/lib/a", 0)


def test_layers_of_an_archive_hide_what_is_below() -> None:
    lower = tar(
        ("etc", None),
        ("etc/a", "1"),
        ("etc/b", "1"),
        ("opt", None),
        ("opt/x", "1"),
        ("opt/deep", None),
        ("opt/deep/y", "1"),
    )
    upper = tar(("etc/.wh.b", ""), ("etc/a", "2"), ("opt", None), ("opt/new", "2"), ("opt/.wh..wh..opq", ""))
    tree = kept(lower, upper, layered=True)
    assert tree.list("/etc") == ("a",)
    assert tree.read("/etc/a", 10) == b"2"
    assert tree.read("/etc/b", 10) is None
    assert tree.list("/opt") == ("new",)
    assert tree.read("/opt/deep/y", 10) is None


def test_only_what_was_asked_for_is_kept() -> None:
    wanted = kept_of(["/etc/differs"], lambda path: "" if path == "/var/lib/db" else None)
    tree = KeptTree(
        [[tar(("etc/differs", "1"), ("etc/same", "1"), ("var/lib/db", "1"), ("a/package.json", "{}"))]],
        wanted,
    )
    assert tree.read("/etc/differs", 10) == b"1"
    assert tree.read("/var/lib/db", 10) == b"1"
    assert tree.read("/a/package.json", 10) == b"{}"
    assert tree.read("/etc/same", 10) is None
    assert tree.list("/etc") == ("differs", "same")


def layer(root: Path, name: str, files: dict[str, str]) -> Path:
    folder = root / name
    folder.mkdir()
    for path, content in files.items():
        file = folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return folder


def test_folders_of_layers_are_merged(tmp_path: Path) -> None:
    lower = layer(tmp_path, "lower", {"/etc/a": "1", "/etc/b": "1", "/usr/lib/x": "1"})
    upper = layer(tmp_path, "upper", {"/etc/a": "2"})
    (upper / "lib").symlink_to("usr/lib")
    tree = LayersTree((upper, lower))
    assert tree.read("/etc/a", 10) == b"2"
    assert tree.read("/etc/b", 10) == b"1"
    assert tree.read("/lib/x", 10) == b"1"
    assert tree.list("/etc") == ("a", "b")
    assert tree.list("/lib") == ("x",)
    assert tree.list("/none") == ()
    assert tree.read("/", 10) is None
    assert [tree.layer_of(path) for path in ("/etc/a", "/etc/b", "/etc", "/none")] == [1, 0, 1, None]


def test_a_link_never_leads_out_of_the_layers(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("host")
    folder = layer(tmp_path, "layer", {"/a/b": "1"})
    (folder / "out").symlink_to("../../../.." + str(tmp_path / "secret"))
    (folder / "loop").symlink_to("loop")
    tree = LayersTree((folder,))
    assert tree.read("/out", 10) is None
    assert tree.read("/loop", 10) is None
    assert tree.read("/a/../../../secret", 10) is None


def test_marks_of_an_overlay(tmp_path: Path) -> None:
    lower = layer(tmp_path, "lower", {"/etc/a": "1", "/etc/b": "1", "/opt/x": "1"})
    upper = layer(tmp_path, "upper", {"/etc/c": "2", "/opt/y": "2"})
    with contextlib.suppress(OSError):
        os.mknod(upper / "etc/b", 0o020600, 0)
        os.setxattr(upper / "opt", "trusted.overlay.opaque", b"y")
    if not (upper / "etc/b").exists():
        pytest.skip("device nodes need root")
    tree = LayersTree((upper, lower))
    assert tree.list("/etc") == ("a", "c")
    assert tree.read("/etc/b", 10) is None
    try:
        os.getxattr(upper / "opt", "trusted.overlay.opaque")
    except OSError:
        pytest.skip("trusted attributes need root")
    assert tree.list("/opt") == ("y",)
    assert tree.read("/opt/x", 10) is None
