"""Layers on top of each other, against the plainest reading of the rules; and looking into folders of layers."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_envpar.drift import manifest
from pytest_envpar.drift.compare import compare_records
from pytest_envpar.drift.folder import FolderLayer, UnreadableError, folder_manifest
from pytest_envpar.drift.layers import Stack, compare_stacks, shared_layers
from pytest_envpar.drift.manifest import ManifestError
from pytest_envpar.drift.records import EMPTY_DIGEST, Record, order
from pytest_envpar.drift.remote import NoScannerError, Scanner
from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_envpar.drift.manifest import Manifest
    from pytest_envpar.engine.api import Stream

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="making whiteouts and trusted xattrs needs root")


def made(path: str, kind: str, link: str = "", owner: str = "0:0") -> Record:
    file = kind[0] == "f"
    return (path, kind, owner, "0" if file else "", EMPTY_DIGEST if file else "", link, "", "0")


Plain = dict[str, tuple[str, str, str]]
"""Path to kind, owner and group of hard links, as the test itself works it out."""


def layered(layers: Sequence[Plain]) -> list[Record]:
    """What layers on top of each other show, one after the other unpacked into a dictionary."""
    shown: dict[str, tuple[str, str, str]] = {}
    for number, layer in enumerate(layers):
        for path in sorted(layer, key=order):
            kind, owner, link = layer[path]
            if kind[0] != "d":
                shown = {
                    at: what for at, what in shown.items() if not at.startswith(path + "/") or at in layer
                }
            if kind[0] in "wD":
                shown = {
                    at: what for at, what in shown.items() if at != path and not at.startswith(path + "/")
                }
            if kind != "w":
                shown[path] = (kind.replace("D", "d"), owner, link and f"{number}{link}")
    groups: dict[str, list[str]] = {}
    for path in sorted(shown, key=order):
        groups.setdefault(shown[path][2], []).append(path)
    return [
        made(path, kind, groups[link][0] if link and len(groups[link]) > 1 else "", owner)
        for path, (kind, owner, link) in sorted(shown.items(), key=lambda item: order(item[0]))
    ]


NAMES = st.sampled_from(["a", "b", "c"])
KINDS = st.sampled_from(["d755", "d700", "f644", "l777", "w", "D755", "hard"])


@st.composite
def layer(draw: st.DrawFn) -> Plain:
    """A layer in which every path has its parents, and nothing is below what is no directory."""
    found: Plain = {"/": ("d755", "0:0", "")}
    owner = f"{draw(st.integers(0, 2))}:0"
    first = ""
    for names in sorted(draw(st.lists(st.lists(NAMES, min_size=1, max_size=3), max_size=6))):
        for depth in range(1, len(names)):
            found.setdefault("/" + "/".join(names[:depth]), ("d755", owner, ""))
        path = "/" + "/".join(names)
        kind = draw(KINDS)
        if kind == "hard":
            kind, first = "f600", first or path
            found[path] = (kind, owner, first)
        else:
            found[path] = (kind, owner, "")
    return {
        path: what
        for path, what in found.items()
        if all(
            found[path[: path.index("/", at)] or "/"][0][0] in "dD"
            for at, c in enumerate(path)
            if c == "/" and at
        )
    }


def as_manifest(plain: Plain) -> Manifest:
    return manifest.write(
        (
            made(path, kind, link, owner if kind != "w" else "0:0")
            for path, (kind, owner, link) in _ordered(plain)
        ),
        layer=True,
    )


def _ordered(plain: Plain) -> list[tuple[str, tuple[str, str, str]]]:
    names = sorted(plain, key=order)
    first: dict[str, str] = {}
    for path in names:
        first.setdefault(plain[path][2], path)
    return [(path, (*plain[path][:2], plain[path][2] and first[plain[path][2]])) for path in names]


@given(st.lists(layer(), min_size=1, max_size=4))
def test_a_stack_shows_what_unpacking_shows(layers: list[Plain]) -> None:
    stack = Stack([as_manifest(each) for each in layers])
    expected = layered(layers)
    assert list(stack.records()) == expected
    by_path = {each[0]: each for each in expected}
    everything = {path for each in layers for path in each} | {"/none", "/a/none"}
    assert {path: stack.get(path) for path in everything} == {path: by_path.get(path) for path in everything}


@given(
    st.lists(layer(), min_size=1, max_size=3), st.lists(layer(), max_size=2), st.lists(layer(), max_size=2)
)
def test_shared_layers_are_only_looked_into_and_nothing_is_missed(
    shared: list[Plain], left: list[Plain], right: list[Plain]
) -> None:
    below = [as_manifest(each) for each in shared]
    # So many that looking is cheaper than reading all: what else is there takes no part.
    filler = manifest.write((made(f"/z/{at:03}", "f644") for at in range(100)), layer=True)
    one = Stack([filler, *below, *map(as_manifest, left)])
    two = Stack([filler, *below, *map(as_manifest, right)])
    told = list(compare_stacks(one, two, shared=len(shared) + 1))
    assert told == list(compare_records(one.records(), two.records()))
    assert [(change.path, change.kind) for change in told] == [
        (change.path, change.kind)
        for change in compare_records(layered(shared + left), layered(shared + right))
    ]


def test_shared_layers_are_counted_from_the_lowest() -> None:
    assert shared_layers(["a", "b", "c"], ["a", "b", "d"]) == 2
    assert shared_layers(["b"], ["a", "b"]) == 0


def test_a_directory_that_a_layer_only_implies_keeps_what_is_below() -> None:
    lower = manifest.write([made("/", "d755"), made("/a", "d700", owner="5:5")], layer=True)
    upper = manifest.write(
        [made("/", "i755"), made("/a", "i755"), made("/a/x", "f644"), made("/b", "i755")], layer=True
    )
    assert [each[:3] for each in Stack([lower, upper]).records()] == [
        ("/", "d755", "0:0"),
        ("/a", "d700", "5:5"),
        ("/a/x", "f644", "0:0"),
        ("/b", "d755", "0:0"),
    ]


def plant(root: Path) -> Path:
    (root / "etc/deep").mkdir(parents=True)
    (root / "etc/file").write_text("content")
    (root / "etc/deep/file").write_text("deep")
    os.link(root / "etc/file", root / "hard")
    os.link(root / "etc/file", root / "zz")
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to("etc")
    return root


def test_a_folder_is_looked_into_as_it_is_read(tmp_path: Path) -> None:
    plant(tmp_path)
    whole, single = folder_manifest(tmp_path, layer=True), FolderLayer(tmp_path)
    assert list(single.records()) == list(whole.records())
    for each in whole.records():
        assert single.get(each[0]) == each
        assert list(single.below(each[0])) == list(whole.below(each[0]) if each[1][0] == "d" else [])
    assert single.get("/none") is None
    assert single.get("/link/file") is None  # no link on the way is followed
    assert sorted(single.links()) == sorted(whole.links())
    change = manifest.write([made("/etc/file", "f600")], layer=True)
    assert single.may_be_linked([change])
    assert not single.may_be_linked([manifest.write([made("/etc/deep/file", "f600")], layer=True)])
    assert list(Stack([single, change]).records()) == list(Stack([whole, change]).records())


@needs_root
def test_marks_of_an_overlay(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.mknod(tmp_path / "gone", 0o600 | 0o020000, os.makedev(0, 0))
    os.mknod(tmp_path / "d" / "null", 0o600 | 0o020000, os.makedev(1, 3))
    try:
        os.setxattr(tmp_path / "d", "trusted.overlay.opaque", b"y")
    except OSError:
        pytest.skip("this file system keeps no trusted xattrs")
    kinds = {each[0]: each[1] for each in folder_manifest(tmp_path, layer=True).records()}
    assert kinds == {
        "/": f"d{tmp_path.stat().st_mode & 0o7777:o}",
        "/d": "D755",
        "/d/null": "c600",
        "/gone": "w",
    }
    os.setxattr(tmp_path / "d", "trusted.overlay.redirect", b"/else")
    with pytest.raises(UnreadableError, match="renamed"):
        folder_manifest(tmp_path, layer=True)


def test_files_that_cannot_be_had_whole_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "growing").write_bytes(b"x" * 100)
    real = os.read

    def read(descriptor: int, size: int) -> bytes:
        data = real(descriptor, size)
        os.utime(tmp_path / "growing", ns=(1, len(written)))
        written.append(1)
        return data

    written: list[int] = []
    monkeypatch.setattr(os, "read", read)
    found = folder_manifest(tmp_path, layer=False)
    assert [(note.path, note.reason) for note in found.notes()] == [
        ("/growing", "it was written to while it was read")
    ]
    assert [entry.digest for entry in found if entry.type == "file"] == [""]


def test_sparse_files_from_a_gibibyte_on(tmp_path: Path) -> None:
    for name, content in (("a", b"island"), ("b", b"island"), ("c", b"Island")):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2 << 40)
            file.seek(1 << 40)
            file.write(content)
    one, two, other = (
        entry.digest for entry in folder_manifest(tmp_path, layer=False) if entry.type == "file"
    )
    assert one == two != other


def test_a_folder_of_too_many_entries_is_refused(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}").touch()
    assert folder_manifest(tmp_path, layer=False, max_entries=6).count == 6
    with pytest.raises(ManifestError, match="more than 4 files"):
        folder_manifest(tmp_path, layer=False, max_entries=4)


HELLO = (b"H", b"\0")


class Said:
    """A stream on which everything was said already."""

    def __init__(self, *frames: tuple[bytes, bytes]) -> None:
        self._data = b"".join(letter + struct.pack(">I", len(data)) + data for letter, data in frames)

    def read(self, *_: object) -> tuple[int, bytes]:
        data, self._data = self._data, b""
        return (1, data) if data else (0, b"")

    def write(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        ([HELLO, (b"X", b"LimitError\0more\0")], ManifestError, "more than"),
        ([(b"H", b"its root may not\0")], NoScannerError, "its root may not"),
        ([HELLO, (b"X", b"OSError\0input\0")], EngineError, "scanning failed: OSError input"),
        ([(b"O", b"CI runtime exec failed")], NoScannerError, "no Python runs there"),
        ([], NoScannerError, "no Python runs there"),
        ([HELLO, (b"M", b"/proc\0proc\0"), (b"R", b"/\0d755\0")], EngineError, "broken"),
        ([HELLO, (b"M", b"/proc\0")], EngineError, "broken"),
        ([HELLO, (b"M", b"")], EngineError, "ended early"),
        ([HELLO, (b"M", b""), (b"R", b"/a")], EngineError, "cut off"),
    ],
)
def test_what_a_scanner_may_say(
    frames: list[tuple[bytes, bytes]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        list(Scanner(cast("Stream", Said(*frames)), "container x").rows())


def test_very_deep_trees(tmp_path: Path) -> None:
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d" * 100, dir_fd=at)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    assert folder_manifest(tmp_path, layer=False).count == 301


def test_the_same_entries_have_the_same_fingerprint_whoever_lists_them(tmp_path: Path) -> None:
    import subprocess

    from pytest_envpar.drift.tar_manifest import tar_manifest

    plant(tmp_path)
    listed = folder_manifest(tmp_path, layer=False)
    for form in ("posix", "gnu"):
        command = ["tar", "-C", str(tmp_path), f"--format={form}", "--numeric-owner", "-cf", "-", "."]
        data = subprocess.run(command, check=True, capture_output=True).stdout
        assert tar_manifest([data]).fingerprint == listed.fingerprint
