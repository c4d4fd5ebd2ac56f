"""Two images that share layers, listed only where they may differ: nothing that differs is where it was not looked."""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_envpar.drift.compare import compare_records
from pytest_envpar.drift.manifest import ManifestError
from pytest_envpar.drift.model import sort_key
from pytest_envpar.drift.narrowed import WideError, narrowed
from pytest_envpar.drift.paired import compare_listings
from pytest_envpar.drift.remote import Detail, Frame, parsed
from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_envpar.drift.model import Change
    from pytest_envpar.drift.records import Record
    from pytest_envpar.drift.remote import Scanner

NAMES = st.sampled_from(["a", "b", "c", "d"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
CONTENT = st.sampled_from(["1", "2"])
BASE = st.dictionaries(PATHS, CONTENT, max_size=20)
LAYER = st.dictionaries(PATHS, CONTENT | st.sampled_from(["mode", "opaque"]) | st.none(), max_size=4)
"""What one more layer does at a path: puts a file there, changes the mode of a folder, or puts one that hides what was
there; None removes it."""


def above(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path
    yield "/"


class Layered:
    """The scanner of an image of up to four layers; `base` and `middle` are the same for all images.

    Args:
        linked: Files of the lowest layer with the same content are one file.
    """

    def __init__(
        self,
        name: str,
        base: Mapping[str, str],
        layer: Mapping[str, str | None],
        linked: bool,
        *,
        middle: Mapping[str, str | None] = MappingProxyType({}),
        top: Mapping[str, str | None] = MappingProxyType({}),
    ) -> None:
        self.notes: list[Any] = []
        self.listed: list[str] = []
        self.open_answers = 0
        self.folders_of: dict[str, str] = {"/": "base"}
        """The topmost layer that has a folder."""
        self.modes: dict[str, str] = {}
        """Of folders, if it is not 755."""
        self.files: dict[str, tuple[str, str, int]] = {}
        """Content, inode, and how many names it has in its layer."""
        self.own = (name, f"{name}-top")
        folders = {folder for path in base for folder in above(path)}
        lower = {path: content for path, content in base.items() if path not in folders}
        for path, content in lower.items():
            self.folders_of |= dict.fromkeys(above(path), "base")
            names = list(lower.values()).count(content) if linked else 1
            self.files[path] = (content, f"base-{content}" if linked else f"base-{path}", names)
        for layer_name, changes in (("middle", middle), (name, layer), (f"{name}-top", top)):
            # What is above comes first.
            for path in sorted(changes, key=sort_key):
                self._change(layer_name, path, changes[path])

    def _change(self, layer: str, path: str, put: str | None) -> None:
        if any(each in self.files for each in above(path)):
            return
        if put in (None, "mode") and path not in (
            self.folders_of if put else {**self.folders_of, **self.files}
        ):
            return
        if put != "mode":
            for seen in (self.folders_of, self.modes, self.files):
                for each in [each for each in seen if f"{each}/".startswith(f"{path}/")]:
                    del cast("dict[str, Any]", seen)[each]
        self.folders_of |= dict.fromkeys(above(path), layer)
        if put in ("mode", "opaque"):
            self.folders_of[path] = layer
            self.modes[path] = "700" if put == "mode" else "755"
        elif put is not None:
            self.files[path] = (put, f"{layer}-{path}", 1)

    def row(self, path: str) -> tuple[str, ...]:
        if path in self.folders_of:
            kind = f"d{self.modes.get(path, '755')}"
            return (path, kind, "0:0", "", "", "", "", "0", f"{self.folders_of[path]}-{path}:1")
        content, inode, names = self.files[path]
        link = path if names > 1 else ""
        ident = f"{inode}:1:{names}" if names > 1 else f"{inode}:1"
        return (path, "f644", "0:0", str(len(content)), "", link, "", "0", ident)

    def folders(self, paths: Sequence[str], skip: Sequence[str]) -> Iterator[Frame]:  # noqa: ARG002
        assert not self.open_answers
        self.open_answers += 1
        return self._answer(paths)

    def _answer(self, paths: Sequence[str]) -> Iterator[Frame]:
        for folder in paths:
            self.listed.append(folder)
            inside = [
                path
                for path in {**self.folders_of, **self.files}
                if path != "/" and next(above(path)) == folder
            ]
            rows = [self.row(path) for path in [*(["/"] if folder == "/" else []), *sorted(inside)]]
            yield b"R", "".join(f"{field}\0" for row in rows for field in row).encode()
        self.open_answers -= 1

    def parsed(self, frame: Frame) -> Any:
        return parsed(frame, "x")

    def details(self, paths: Sequence[str]) -> dict[str, Detail]:
        return {path: Detail(hashlib.sha256(self.files[path][0].encode()).hexdigest(), "") for path in paths}

    def records(self) -> Iterator[Record]:
        first: dict[str, str] = {}
        inodes = [inode for _, inode, _ in self.files.values()]
        for path in sorted({**self.folders_of, **self.files}, key=sort_key):
            row = self.row(path)
            if path in self.folders_of:
                yield cast("Record", row[:8])
                continue
            content, inode, _ = self.files[path]
            link = first.setdefault(inode, path) if inodes.count(inode) > 1 else ""
            yield cast("Record", (*row[:4], hashlib.sha256(content.encode()).hexdigest(), link, *row[6:8]))


def compared(left: Layered, right: Layered) -> list[Change]:
    one, two = narrowed(cast("Scanner", left), cast("Scanner", right), ())
    return list(
        compare_listings(
            one, two, skip=((), ()), outside=lambda: lambda _: False, mtime=False, note=lambda *_: None
        )
    )


@settings(deadline=None)
@given(BASE, LAYER, LAYER, LAYER, LAYER, st.booleans())
def test_nothing_is_missed_or_it_is_said_that_this_is_not_enough(
    base: dict[str, str],
    middle: dict[str, str | None],
    one: dict[str, str | None],
    other: dict[str, str | None],
    top: dict[str, str | None],
    linked: bool,
) -> None:
    left = Layered("left", base, one, linked, middle=middle)
    right = Layered("right", base, other, linked, middle=middle, top=top)
    try:
        found = compared(left, right)
    except WideError:
        assert linked
    else:
        assert found == list(compare_records(left.records(), right.records()))
    # A folder of the layers that are shared by both is not entered.
    assert all(
        left.folders_of[each] in left.own or right.folders_of.get(each) != left.folders_of[each]
        for each in left.listed[1:]
    )


def test_a_link_that_was_broken_is_told_where_all_names_were_seen() -> None:
    base = {"/a/one": "1", "/a/two": "1", "/b/other": "2"}
    left, right = Layered("left", base, {}, True), Layered("right", base, {"/a/two": "1"}, True)
    changes = compared(left, right)
    assert {change.path: change.attributes for change in changes} == {
        "/a/one": ("hardlink",),
        "/a/two": ("hardlink",),
    }
    assert left.listed == right.listed == ["/", "/a"]


def test_names_of_a_file_may_be_where_nothing_was_listed() -> None:
    base = {"/a/one": "1", "/b/two": "1"}
    left, right = Layered("left", base, {}, True), Layered("right", base, {"/a/one": "1"}, True)
    with pytest.raises(WideError, match="several names"):
        compared(left, right)


class Plain(Layered):
    """Where the root is no overlay: folders have no inode that says something."""

    def row(self, path: str) -> tuple[str, ...]:
        row = super().row(path)
        return (*row[:8], "") if row[1][0] == "d" else row


def test_without_an_overlay_everything_has_to_be_listed() -> None:
    with pytest.raises(WideError, match="no overlays"):
        compared(Plain("left", {}, {}, False), Plain("right", {}, {}, False))


OWN = ("/a", "f644", "0:0", "1", "", "", "", "0", "1:1")


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (("/elsewhere/x", *OWN[1:]), "not asked"),
        (OWN, "not asked"),
        (("a", *OWN[1:]), "not a path"),
        (("/", "d755", "0:0", "", *OWN[4:]), "not asked"),
        (("/b", "", *OWN[2:]), "not a kind"),
        (("/b", "w", *OWN[2:]), "not a kind"),
        (("/b", "f644", "root:root", *OWN[3:]), "not an owner"),
        (OWN[:8], "answer is broken"),
    ],
)
def test_what_was_not_asked_for_is_refused(row: tuple[str, ...], error: str) -> None:
    class Lying(Layered):
        def folders(self, paths: Sequence[str], skip: Sequence[str]) -> Iterator[Frame]:
            yield from super().folders(paths, skip)
            yield b"R", "".join(f"{field}\0" for field in row).encode()

    with pytest.raises(EngineError, match=error):
        compared(Lying("left", {"/a": "1"}, {}, False), Layered("right", {"/a": "1"}, {}, False))


MANY = {f"/{folder}/{name}": "1" for folder in range(9) for name in range(50)}
"""Nine folders, which all differ if each has something new."""


def test_what_is_the_same_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_envpar.drift.narrowed._FOLDERS", 1)
    monkeypatch.setattr("pytest_envpar.drift.narrowed._MOST", 80)
    new = {f"/{folder}/new": "1" for folder in range(9)}
    found = compared(Layered("left", MANY, {}, False), Layered("right", MANY, new, False))
    assert [change.path for change in found] == list(new)


def test_that_too_much_differs_is_told_before_all_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_envpar.drift.narrowed._FOLDERS", 2)
    monkeypatch.setattr("pytest_envpar.drift.narrowed._MOST", 200)
    new = {f"/{folder}/{name}": "2" for folder in range(9) for name in range(50)}
    left, right = Layered("left", MANY, {}, False), Layered("right", MANY, new, False)
    with pytest.raises(WideError, match="more than 200"):
        compared(left, right)
    assert left.listed == right.listed == ["/", "/0", "/1", "/2", "/3"]
    # The next answer is that to the next question.
    assert left.open_answers == right.open_answers == 0


def test_there_are_no_more_entries_than_in_any_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_envpar.drift.narrowed._MOST", 20)
    monkeypatch.setattr("pytest_envpar.drift.narrowed.MAX_ENTRIES", 50)
    with pytest.raises(ManifestError, match="more than 50"):
        compared(Layered("left", MANY, {}, False), Layered("right", MANY, {"/1/new": "1"}, False))
