"""What comes out of a container's archive, and what does not, without any engine."""

from __future__ import annotations

import io
import tarfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.containers import handle_archive, idle
from pytest_envpar.errors import EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCE = PurePosixPath("/srv/data")


def archive(*members: tuple[str, bytes, str]) -> Iterator[bytes]:
    """An archive of ``(name, type, content or target)``, in small pieces."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as made:
        for name, kind, text in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.mode = 0o755
            content = text.encode()
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                member.linkname, content = text, b""
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    data = target.getvalue()
    return (data[at : at + 700] for at in range(0, len(data), 700))


def whole(*members: tuple[str, bytes, str]) -> io.BytesIO:
    return io.BytesIO(b"".join(archive(*members)))


FILE, FOLDER, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "data/../../outside", "../outside", "data/a/../../../outside", "/data/x"],
)
def test_a_name_that_leads_out_is_left_out(tmp_path: Path, name: str) -> None:
    place = handle_archive.extract(
        archive(("data/", FOLDER, ""), (name, FILE, "evil"), ("data/good", FILE, "good")),
        SOURCE,
        tmp_path / "copy",
    )
    assert [path.name for path in place.iterdir()] == ["good"]
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("target", ["/etc", "..", "../..", "a/../../..", "sub/../..", "../copy/../.."])
def test_a_link_that_leads_out_is_left_out(tmp_path: Path, target: str) -> None:
    place = handle_archive.extract(
        archive(("data/", FOLDER, ""), ("data/link", LINK, target)), SOURCE, tmp_path / "copy"
    )
    assert list(place.iterdir()) == []


def test_nothing_is_written_through_a_link_of_the_archive(tmp_path: Path) -> None:
    members = (
        ("data/", FOLDER, ""),
        ("data/in", FOLDER, ""),
        ("data/link", LINK, "in"),
        ("data/link/x", FILE, "x"),
    )
    with pytest.raises(UsageError, match="symbolic link"):
        handle_archive.extract(archive(*members), SOURCE, tmp_path / "copy")


def test_a_hard_link_is_a_copy_of_what_came_before(tmp_path: Path) -> None:
    members = (
        ("data/", FOLDER, ""),
        ("data/a", FILE, "content"),
        ("data/b", HARD, "data/a"),
        ("data/c", HARD, "/etc/passwd"),
        ("data/d", HARD, "data/later"),
    )
    place = handle_archive.extract(archive(*members), SOURCE, tmp_path)
    assert place == tmp_path / "data"
    assert {path.name: path.read_text() for path in place.iterdir()} == {"a": "content", "b": "content"}


def test_devices_and_fifos_are_left_out(tmp_path: Path) -> None:
    kinds = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    members = (("data/", FOLDER, ""), *((f"data/{number}", kind, "") for number, kind in enumerate(kinds)))
    assert list(handle_archive.extract(archive(*members), SOURCE, tmp_path / "copy").iterdir()) == []


def test_one_file(tmp_path: Path) -> None:
    place = handle_archive.extract(archive(("data", FILE, "content")), SOURCE, tmp_path / "named")
    assert (place, place.read_text()) == (tmp_path / "named", "content")
    assert handle_archive.read_file(archive(("data", FILE, "content")), SOURCE) == b"content"
    with pytest.raises(IsADirectoryError):
        handle_archive.read_file(archive(("data/", FOLDER, "")), SOURCE)
    with pytest.raises(handle_archive.LinkError):
        handle_archive.read_file(archive(("data", LINK, "elsewhere")), SOURCE)
    with pytest.raises(UsageError, match="no regular file"):
        handle_archive.read_file(archive(("data", tarfile.FIFOTYPE, "")), SOURCE)


def test_one_call_reads_and_copies_only_so_much(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"/srv/data .* 7 bytes.*0 MiB"):
        handle_archive.read_file(archive(("data", FILE, "content")), SOURCE, 6)
    assert handle_archive.read_file(archive(("data", FILE, "content")), SOURCE, 7) == b"content"
    large = ("data/", FOLDER, ""), ("data/a", FILE, "x" * 20_000), ("data/b", HARD, "data/a")
    empty = ("data/", FOLDER, ""), *((f"data/{number}", FILE, "") for number in range(20))
    for members in (large, empty):
        with pytest.raises(UsageError, match="copy_out of /srv/data: with data/"):
            handle_archive.extract(archive(*members), SOURCE, tmp_path / "copy", most=40_000)
        with pytest.raises(UsageError, match="copy_in: with data/"):
            list(handle_archive.entries_in(whole(*members), "x", 0, 0, 40_000))
        assert list(handle_archive.entries_in(whole(*members), "x", 0, 0, 100_000))


def test_an_archive_that_claims_holes_is_not_unpacked() -> None:
    member = tarfile.TarInfo("copy")
    # As `tar --sparse --format=posix` says of a file that is all hole.
    member.pax_headers = {"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": f"{1 << 40},0"}
    tar = io.BytesIO(member.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    with pytest.raises(UsageError, match="copy is packed as a file with holes"):
        list(handle_archive.entries_in(tar, "x", 0, 0))


def test_what_is_unpacked_is_what_was_packed() -> None:
    members = ("copy/", FOLDER, ""), ("copy/a", FILE, "content"), ("copy/b", HARD, "copy/a")
    links = ("copy/c", LINK, "later"), ("copy/d", HARD, "copy/c"), ("copy/later", FILE, "more")
    found = handle_archive.entries_in(whole(*members, *links), "x", 1, 2)
    assert [(entry.name, entry.kind, entry.data) for entry in found] == [
        ("x/", "directory", b""),
        ("x/a", "file", b"content"),
        ("x/b", "file", b"content"),
        ("x/c", "link", b""),
        ("x/later", "file", b"more"),
    ]


def test_a_broken_archive_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be read"):
        handle_archive.extract(iter([b"x" * 2000]), SOURCE, tmp_path / "copy")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot be written"):
        handle_archive.extract(archive(("data", FILE, "x")), SOURCE, tmp_path / "file" / "below")


@pytest.mark.parametrize(("architecture", "machine"), [("amd64", 62), ("arm64", 183)])
def test_the_idle_program_is_an_executable(architecture: str, machine: int) -> None:
    made = idle.program(architecture)
    assert made is not None
    assert made[:4] == b"\x7fELF"
    assert int.from_bytes(made[18:20], "little") == machine
    assert len(made) < 400
    assert idle.program("s390x") is None
