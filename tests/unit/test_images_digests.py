"""Digests that are remembered: what is read again, and what a damaged memory costs."""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.images import digests
from pytest_envpar.images.context import Context, memory_of, read_context
from pytest_envpar.images.digests import Digests, file_digest, times

if TYPE_CHECKING:
    from pathlib import Path

LATER_NS = 10_000_000_000


@pytest.fixture
def context(tmp_path: Path) -> Path:
    root = tmp_path / "context"
    (root / "src").mkdir(parents=True)
    for name in ("Dockerfile", "a", "src/b"):
        (root / name).write_text(name)
    (root / "link").symlink_to("a")
    return root


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "memory" / "m"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []

    def reading(path: str, size: int) -> str:
        names.append(os.path.basename(path))  # noqa: PTH119
        return file_digest(path, size)

    monkeypatch.setattr(digests, "file_digest", reading)
    return names


def look(context: Path, *, later: bool = True) -> Context:
    """The context, as if what it holds had been written long ago."""
    found = read_context(context, context / "Dockerfile")
    return Context(
        found.folder,
        found.rows,
        found.dockerfile,
        found.outside,
        time.time_ns() + (LATER_NS if later else 0),
    )


def test_what_did_not_change_is_not_read_again(context: Path, memory: Path, read: list[str]) -> None:
    plain = look(context).digest()
    assert len(read) == 3
    assert look(context).digest(memory) == plain
    assert len(read) == 6
    assert look(context).digest(memory) == plain
    assert len(read) == 6


@pytest.mark.parametrize("change", ["content", "same size and time", "mode", "link", "added", "removed"])
def test_only_what_changed_is_read_again(context: Path, memory: Path, read: list[str], change: str) -> None:
    before = look(context).digest(memory)
    read.clear()
    file = context / "src/b"
    expected = ["b"]
    if change == "content":
        file.write_text("longer than before")
    elif change == "same size and time":
        status = file.stat()
        file.write_text("src/B")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "mode":
        # Which moves the time of the last change, too: nobody can tell what else was changed.
        file.chmod(0o755)
    elif change == "link":
        (context / "link").unlink()
        (context / "link").symlink_to("src")
        expected = []
    elif change == "added":
        (context / "new").touch()
        expected = ["new"]
    else:
        file.unlink()
        expected = []
    after = look(context).digest(memory)
    assert after != before
    assert read == expected
    assert after == look(context).digest()
    read.clear()
    assert look(context).digest(memory) == after
    assert read == []


def test_what_was_written_just_now_is_read_again(context: Path, memory: Path, read: list[str]) -> None:
    look(context, later=False).digest(memory)
    read.clear()
    file = context / "a"
    status = file.stat()
    before = look(context, later=False).digest(memory)
    assert sorted(read) == ["Dockerfile", "a", "b"]
    # An edit within the same tick of the clock leaves no trace; such a file was never remembered.
    known = Digests(memory, time.time_ns())
    file.write_text("A")
    assert known.of(str(file), "a", times(status)) != before
    assert look(context, later=False).digest(memory) == look(context).digest() != before


def test_one_young_file_does_not_make_the_others_be_read(
    context: Path, memory: Path, read: list[str]
) -> None:
    soon_ns = time.time_ns() + LATER_NS
    os.utime(context / "a", ns=(soon_ns, soon_ns))
    look(context).digest(memory)
    read.clear()
    look(context).digest(memory)
    assert read == ["a"]


@pytest.mark.parametrize("damage", ["cut", "head", "body", "other", "empty", "not JSON", "a folder"])
def test_a_damaged_memory_is_an_empty_one(context: Path, memory: Path, read: list[str], damage: str) -> None:
    expected = look(context).digest(memory)
    content = memory.read_bytes()
    read.clear()
    if damage == "a folder":
        memory.unlink()
        memory.mkdir()
    else:
        head, _, body = content.partition(b"\n")
        flipped = bytes([head[40] ^ 1])
        memory.write_bytes(
            {
                "cut": content[:-20],
                "head": head[:40] + flipped + head[41:] + b"\n" + body.replace(b"1", b"2"),
                "body": b"x" * 120 + b"\n" + body.replace(b"1", b"2"),
                "other": b"something else\n" * 100,
                "empty": b"",
                "not JSON": b"\xff\xfe\n\xff",
            }[damage]
        )
        if damage == "cut":
            # The line of the whole is good, and answers; for a changed file the rest is needed.
            (context / "new").touch()
    assert (look(context).digest(memory) == expected) is (damage != "cut")
    assert set(read) >= {"Dockerfile", "a", "b"}


def test_a_memory_that_cannot_be_written_costs_time_only(context: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert look(context).digest(tmp_path / "file" / "m") == look(context).digest()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["context", "file"]


@pytest.mark.parametrize("size", [0, 5, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (2 << 20) + 7])
@pytest.mark.parametrize("thought", [0, 5, 1 << 20, 9 << 20])
def test_a_file_of_any_size(tmp_path: Path, size: int, thought: int) -> None:
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    assert file_digest(str(tmp_path / "f"), thought) == hashlib.sha256(content).hexdigest()


def test_where_it_is(context: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one, two = memory_of(context, context / "a"), memory_of(context, context / "b")
    assert one.parent == two.parent == tmp_path / "cache/pytest-envpar/digests"
    assert one != two
