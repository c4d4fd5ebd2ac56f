"""Two listings side by side, and tables of what an image looks like: what is passed over is never what differs."""

from __future__ import annotations

import dataclasses
import hashlib
import zlib
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_envpar.drift.compare import compare_records
from pytest_envpar.drift.model import NotCompared, sort_key
from pytest_envpar.drift.paired import MovedError, compare_listings
from pytest_envpar.drift.remote import Detail, Frame
from pytest_envpar.drift.stat_tables import Recorder, Table, TableError
from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_envpar.drift.model import Change
    from pytest_envpar.drift.records import Record
    from pytest_envpar.drift.remote import Scanner

NAMES = st.sampled_from(["a", "b", "c", "longer", "z"])
FILES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts)),
    st.tuples(st.sampled_from(["f644", "f600", "l777"]), st.sampled_from(["", "1", "2"])),
    max_size=25,
)


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


@dataclasses.dataclass
class Listed:
    """A side made of a few files: kind and content by path. Equal files are the same inode on every side.

    Args:
        width: After how many characters of a folder's path a frame may end, as the scanner has it.
        grouped: Files of one kind and content are one file with several names.
    """

    files: dict[str, tuple[str, str]]
    width: int = 2
    grouped: bool = False
    most_moved: int | None = None
    notes: list[NotCompared] = dataclasses.field(default_factory=list)
    asked: list[str] = dataclasses.field(default_factory=list)

    def rows(self) -> list[list[str]]:
        folders = {"/"}
        for path in self.files:
            while path := path.rpartition("/")[0]:
                folders.add(path)
        files = {path: made for path, made in self.files.items() if path not in folders}
        groups: dict[tuple[str, str], str] = {}
        rows = []
        for path in sorted({*folders, *files}, key=sort_key):
            if path in folders:
                rows.append([path, "d755", "0:0", "", "", "", "", "0", ""])
                continue
            kind, content = files[path]
            first = groups.setdefault((kind, content), path) if self.grouped and kind[0] == "f" else ""
            detail = str(len(content)) if kind[0] == "f" else "target"
            rows.append([path, kind, "0:0", detail, "", first, "", "0", f"{content or 0}:{kind[1:]}"])
        return rows

    def frames(self, _: Sequence[str]) -> Iterator[Frame]:
        letter, fields = b"R", list[str]()
        for row in self.rows():
            if row[1][0] == "d" and not len(row[0]) % self.width:
                yield letter, "".join(f"{field}\0" for field in fields).encode()
                letter, fields = b"R", []
            letter = b"L" if row[5] else letter
            fields += row
        yield letter, "".join(f"{field}\0" for field in fields).encode()

    def details(self, paths: Sequence[str]) -> dict[str, Detail]:
        self.asked += paths
        return {
            path: Detail(digest(self.files[path][1]) if self.files[path][0][0] == "f" else "", "")
            for path in paths
        }

    def records(self) -> Iterator[Record]:
        rows = self.rows()
        names = [row[5] for row in rows]
        for row in rows:
            link = row[5] if names.count(row[5]) > 1 else ""
            content = digest(self.files[row[0]][1]) if row[1][0] == "f" else ""
            yield cast("Record", (*row[:4], content, link, *row[6:8]))


def compared(one: Any, two: Any, **more: Any) -> list[Change]:
    return list(
        compare_listings(
            one,
            two,
            **{
                "skip": ((), ()),
                "outside": lambda: lambda _: False,
                "mtime": False,
                "note": lambda *_: None,
                **more,
            },
        )
    )


@given(FILES, FILES, st.integers(1, 5), st.booleans())
def test_what_is_alike_is_passed_over_and_nothing_is_missed(
    one: dict[str, tuple[str, str]], other: dict[str, tuple[str, str]], width: int, grouped: bool
) -> None:
    left, right = Listed(one, width, grouped), Listed({**one, **other}, width, grouped)
    expected = list(compare_records(left.records(), right.records()))
    assert compared(left, right) == expected
    assert compared(left, Listed(one, width, grouped)) == []
    # Only what differs, is only on one side, or is another inode of the same is read.
    differing = {change.path for change in expected}
    moved = {path for path, made in other.items() if one.get(path) != made}
    assert set(left.asked) | set(right.asked) <= differing | moved


@given(FILES, FILES, st.booleans())
def test_a_table_says_what_was_said(
    one: dict[str, tuple[str, str]], other: dict[str, tuple[str, str]], grouped: bool
) -> None:
    left, right = Listed(one, grouped=grouped), Listed({**one, **other}, grouped=grouped)
    recorder = Recorder(cast("Scanner", left), "a")
    expected = compared(recorder, right)
    data = recorder.table()
    assert data is not None
    left.asked.clear()
    table = Table(data, lambda: cast("Scanner", left), "a")
    assert compared(table, right) == expected
    assert not table.asked
    assert left.asked == []


def test_a_table_learns_what_it_does_not_know() -> None:
    left = Listed({"/a": ("f644", "1"), "/b": ("f644", "1")})
    recorder = Recorder(cast("Scanner", left), "a")
    compared(recorder, left)
    table = Table(recorder.table() or b"", lambda: cast("Scanner", left), "a")
    right = Listed({"/a": ("f644", "2"), "/b": ("f644", "1")})
    assert [change.path for change in compared(table, right)] == ["/a"]
    assert (table.asked, table.changed, left.asked) == (True, True, ["/a"])
    again = Table(table.table() or b"", lambda: pytest.fail("it is known"), "a")
    assert [change.path for change in compared(again, right)] == ["/a"]
    assert not again.changed


def test_a_table_of_an_image_that_was_not_read_whole_is_not_kept() -> None:
    left = Listed({"/a": ("f644", "1")})
    recorder = Recorder(cast("Scanner", left), "a")
    assert recorder.table() is None
    left.notes.append(NotCompared("/a", "it cannot be read"))
    compared(recorder, left)
    assert recorder.table() is None


def test_too_many_files_that_have_moved() -> None:
    left = Listed({f"/{number}": ("f644", "1") for number in range(3)}, most_moved=2)
    right = Listed({f"/{number}": ("f644", "2") for number in range(3)})
    with pytest.raises(MovedError, match="3 files"):
        compared(left, right)
    left.most_moved = 3
    assert len(compared(left, right)) == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not begin"),
        (b"envpar-stat 1\nno zlib", "broken"),
        (b"envpar-stat 1\n" + zlib.compress(b"R\4\0\0\0abc"), "cut off"),
        (b"envpar-stat 1\n" + zlib.compress(b"R\0\0\0\0")[:-5], "cut off"),
        (b"envpar-stat 1\n" + zlib.compress(b"Z\0\0\0\0"), "something else"),
        (b"envpar-stat 1\n" + zlib.compress(b"P\1\0\0\0a"), "incomplete"),
        (b"envpar-stat 1\n" + zlib.compress(b"R\xff\xff\xff\xff"), "cannot be"),
    ],
)
def test_bytes_that_are_no_table(data: bytes, message: str) -> None:
    with pytest.raises(TableError, match=message):
        list(Table(data, lambda: pytest.fail("not asked"), "a").frames(()))


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    table = Table(b"envpar-stat 1\n" + zlib.compress(raw), lambda: pytest.fail("not asked"), "a")
    try:
        compared(table, Listed({}))
    except (TableError, EngineError, MovedError):
        pass


def test_what_a_scanner_says_of_single_paths_is_checked() -> None:
    class Lying(Listed):
        def details(self, paths: Sequence[str]) -> dict[str, Detail]:
            return {path: Detail("no digest", "zz") for path in paths}

    with pytest.raises(EngineError, match="broken"):
        compared(Lying({"/a": ("f644", "1")}), Listed({}))
