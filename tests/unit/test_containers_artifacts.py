"""Artifacts from hostile archives: what comes back, and what never does."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, cast

import pytest

from pytest_envpar.containers.artifacts import collect
from pytest_envpar.errors import EngineError, NotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_envpar.engine.api import Engine

ROOT = PurePosixPath("/in/proj")


class Archives:
    """Serves a prepared archive for each container path, and remembers what was asked for."""

    def __init__(self, archives: Mapping[str, bytes], piece: int = 7) -> None:
        self.archives = archives
        self.asked: list[str] = []
        self.piece = piece

    def get_archive(self, _container: str, path: PurePosixPath) -> Iterator[bytes]:
        relative = "" if path == ROOT else str(path.relative_to(ROOT))
        self.asked.append(relative)
        if relative not in self.archives:
            raise NotFoundError("no such path")
        data = self.archives[relative]
        return (data[at : at + self.piece] for at in range(0, len(data), self.piece))


def archive(*members: tuple[str, str | bytes]) -> bytes:
    """A tar; a text says a type by its first sign: ``/`` folder, ``>`` link, ``=`` hard link, ``!`` pipe."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, value in members:
            info = tarfile.TarInfo(name)
            info.mtime = 1_700_000_000
            if isinstance(value, bytes):
                info.size = len(value)
                made.addfile(info, io.BytesIO(value))
                continue
            info.type = {
                "/": tarfile.DIRTYPE,
                ">": tarfile.SYMTYPE,
                "=": tarfile.LNKTYPE,
                "!": tarfile.FIFOTYPE,
            }[value[0]]
            info.linkname = value[1:]
            made.addfile(info)
    return out.getvalue()


def bring(archives: Mapping[str, bytes] | Archives, patterns: list[str], root: Path) -> list[str]:
    served = archives if isinstance(archives, Archives) else Archives(archives)
    found = collect(cast("Engine", served), "c", ROOT, patterns, root)
    return [str(path.relative_to(root)) for path in found]


def test_matching_files_come_back(tmp_path: Path) -> None:
    data = archive(("reports", "/"), ("reports/a.xml", b"A"), ("reports/deep/b.xml", b"B" * 100_000))
    served = Archives({"reports": data})
    assert bring(served, ["reports/**"], tmp_path) == ["reports/a.xml", "reports/deep/b.xml"]
    assert (tmp_path / "reports/deep/b.xml").read_bytes() == b"B" * 100_000
    assert served.asked == ["reports"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.xml", ["a.xml"]),
        ("**/*.xml", ["a.xml", "d/b.xml", "d/e/c.xml"]),
        ("d", ["d/b.xml", "d/e/c.xml"]),
        ("d/*.xml", ["d/b.xml"]),
        ("?.xml", ["a.xml"]),
        ("[!b].xml", ["a.xml"]),
        ("[bc].xml", []),
        ("d/**/*.xml", ["d/b.xml", "d/e/c.xml"]),
        ("**", ["a.xml", "d/b.xml", "d/e/c.xml"]),
        ("./d//e", ["d/e/c.xml"]),
        ("../x", []),
        ("", []),
    ],
)
def test_globs(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    files = (("a.xml", b"1"), ("d/b.xml", b"2"), ("d/e/c.xml", b"3"))
    archives = {
        "": archive(*((f"proj/{name}", data) for name, data in files)),
        "d": archive(*files[1:]),
        "d/e": archive(("e/c.xml", b"3")),
    }
    assert bring(archives, [pattern], tmp_path) == expected


def test_overlapping_patterns_are_fetched_once(tmp_path: Path) -> None:
    served = Archives({"d": archive(("d/e/c.xml", b"3"))})
    assert bring(served, ["d/e/*", "d/**", "d"], tmp_path) == ["d/e/c.xml"]
    assert served.asked == ["d"]


def test_a_single_file_and_a_missing_path(tmp_path: Path) -> None:
    served = Archives({"d/cov.xml": archive(("cov.xml", b"x"))})
    assert bring(served, ["d/cov.xml", "nothing/**"], tmp_path) == ["d/cov.xml"]


def test_what_the_host_already_has_unchanged_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(b"A")
    os.utime(tmp_path / "a.xml", (1_700_000_000, 1_700_000_000))
    served = {"": archive(("proj/a.xml", b"A"), ("proj/b.xml", b"B"))}
    assert bring(served, ["*.xml"], tmp_path) == ["b.xml"]
    assert bring(served, ["*.xml"], tmp_path) == []


def test_changed_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(b"old")
    assert bring({"": archive(("proj/a.xml", b"new"))}, ["*.xml"], tmp_path) == ["a.xml"]
    assert (tmp_path / "a.xml").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.xml"]


@pytest.mark.parametrize(
    "name", ["/etc/evil", "proj/../../evil", "../evil", "proj/a/../../../evil", "proj/..", "evil\0x"]
)
def test_names_that_leave_the_root_are_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "host"
    root.mkdir()
    data = archive(("proj/ok", b"1"), ("proj/placeholder", b"2"))
    if "\0" not in name:
        data = archive((name, b"evil"), ("proj/ok", b"1"))
    assert "ok" in bring({"": data}, ["**"], root)
    assert [path.name for path in tmp_path.rglob("evil*")] == []


def test_links_and_pipes_never_come(tmp_path: Path) -> None:
    data = archive(
        ("proj/out", ">/etc"),
        ("proj/out/passwd", b"x"),
        ("proj/pipe", "!"),
        ("proj/dev", "/"),
        ("proj/hl", "=proj/no"),
    )
    # A file below a link's name lands in a real folder of that name, not where the link points.
    assert bring({"": data}, ["**"], tmp_path) == ["out/passwd"]
    assert not (tmp_path / "out").is_symlink()
    assert not (tmp_path / "pipe").exists()


def test_a_hard_link_comes_as_the_file_it_names(tmp_path: Path) -> None:
    data = archive(("proj/a", b"same"), ("proj/b", "=proj/a"))
    assert bring({"": data}, ["**"], tmp_path) == ["a", "b"]
    assert (tmp_path / "b").read_bytes() == b"same"
    assert (tmp_path / "b").stat().st_nlink == 1


def test_a_link_on_the_host_is_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "host", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "reports").symlink_to(outside)
    (root / "x").symlink_to(outside / "target")
    with pytest.raises(UsageError, match="is a symbolic link"):
        bring({"reports": archive(("reports/a", b"1"))}, ["reports/**"], root)
    assert bring({"x": archive(("x", b"1"))}, ["x"], root) == ["x"]
    assert list(outside.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("")
    with pytest.raises(UsageError, match=r"artifacts: .*cannot be written"):
        bring({"reports": archive(("reports/a", b"1"))}, ["reports/**"], tmp_path)


def test_an_archive_that_ends_early_is_told(tmp_path: Path) -> None:
    data = archive(("proj/a", b"1" * 5000))[:2000]
    with pytest.raises(EngineError, match="ends early"):
        bring({"": data}, ["**"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_of_any_bytes_come_back(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff\x1b.xml")
    assert bring({"": archive((f"proj/{odd}", b"1"))}, ["*.xml"], tmp_path) == [odd]
