"""Tar streams: read as the standard library reads them, and refused where they are hostile."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_envpar.drift.inside.digests import SPARSE_FROM
from pytest_envpar.drift.manifest import ManifestError
from pytest_envpar.drift.tar import TarError
from pytest_envpar.drift.tar_manifest import tar_manifest

if TYPE_CHECKING:
    from pytest_envpar.drift.manifest import Manifest


def member(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.size = len(content)
    for field, value in fields.items():
        setattr(made, field, value)
    return made, content


def archive(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as made:
        for info, content in members:
            made.addfile(info, io.BytesIO(content))
    return out.getvalue()


def pieces(data: bytes, size: int = 700) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def paths(made: Manifest) -> list[str]:
    return [entry.path for entry in made]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_type(form: int) -> None:
    data = archive(
        member("./etc/", type=tarfile.DIRTYPE, mode=0o700),
        member("etc/passwd", b"root", mode=0o4755, uid=7, gid=8, mtime=12),
        member("/absolute", b""),
        member("etc/link", type=tarfile.SYMTYPE, linkname="../passwd", mode=0o644),
        member("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        member("dev/sda", type=tarfile.BLKTYPE, devmajor=8, devminor=0),
        member("fifo", type=tarfile.FIFOTYPE, mode=0o600),
        member("etc/again", type=tarfile.LNKTYPE, linkname="etc/passwd"),
        form=form,
    )
    found = {entry.path: entry for entry in tar_manifest(pieces(data))}
    assert list(found) == [
        *(
            "/",
            "/absolute",
            "/dev",
            "/dev/null",
            "/dev/sda",
            "/etc",
            "/etc/again",
            "/etc/link",
            "/etc/passwd",
            "/fifo",
        )
    ]
    assert (found["/etc"].type, found["/etc"].mode) == ("directory", 0o700)
    assert (found["/dev"].type, found["/dev"].mode) == ("directory", 0o755)
    passwd = found["/etc/passwd"]
    assert (passwd.type, passwd.mode, passwd.uid, passwd.gid, passwd.size) == ("file", 0o4755, 7, 8, 4)
    assert passwd.digest == hashlib.sha256(b"root").hexdigest()
    assert passwd.mtime_ns == 12_000_000_000
    assert passwd.hardlink == found["/etc/again"].hardlink == "/etc/again"
    assert (found["/etc/again"].digest, found["/etc/again"].uid) == (passwd.digest, 7)
    assert (found["/etc/link"].type, found["/etc/link"].target, found["/etc/link"].mode) == (
        "link",
        "../passwd",
        0o777,
    )
    assert (found["/dev/null"].type, found["/dev/null"].device) == ("character", (1, 3))
    assert (found["/dev/sda"].type, found["/dev/sda"].device) == ("block", (8, 0))
    assert found["/fifo"].type == "fifo"
    assert found["/absolute"].digest == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_large_numbers_and_bytes_that_are_not_utf8(form: int) -> None:
    long = "/".join(["x" * 200] * 25)
    data = archive(
        member(f"{long}/file", b"a", uid=3_000_000_000),
        member(f"{long}/link", type=tarfile.SYMTYPE, linkname=long),
        member("latin-\udce9", b"b"),
        form=form,
    )
    found = {entry.path: entry for entry in tar_manifest([data])}
    assert found[f"/{long}/file"].uid == 3_000_000_000
    assert found[f"/{long}/link"].target == long
    assert "/latin-\udce9" in found


def test_times_and_extended_attributes_of_pax() -> None:
    headers = {"mtime": "1.25", "SCHILY.xattr.user.a": "x=y", "SCHILY.xattr.security.selinux": "label"}
    made, content = member("f", b"1", pax_headers=headers)
    [_, found] = tar_manifest([archive((made, content))])
    assert found.mtime_ns == 1_250_000_000
    assert found.xattrs == (("user.a", b"x=y"),)


def test_what_is_said_last_counts() -> None:
    data = archive(member("f", b"old"), member("d/x", b""), member("f", b"new"), member("d", b"now a file"))
    found = {entry.path: entry for entry in tar_manifest([data])}
    assert sorted(found) == ["/", "/d", "/f"]
    assert found["/f"].digest == hashlib.sha256(b"new").hexdigest()


def test_whiteouts_of_a_layer() -> None:
    data = archive(
        member("a/.wh.gone", b""),
        member("a/again/", type=tarfile.DIRTYPE, mode=0o755),
        member("a/.wh.again", b""),
        member("b/.wh..wh..opq", b""),
        member("b/new", b""),
        member("c/", type=tarfile.DIRTYPE, mode=0o700),
        member("c/.wh..wh..opq", b""),
        member(".wh..wh.plnk", b""),
    )
    made = {record[0]: record[1] for record in tar_manifest([data], layer=True).records()}
    assert made == {
        "/": "i755",
        "/a": "i755",
        "/a/again": "D755",
        "/a/gone": "w",
        "/b": "D755",
        "/b/new": "f644",
        "/c": "D700",
    }


def test_compressed() -> None:
    data = archive(member("f", b"x" * 5000))
    whole = gzip.compress(data[:2000]) + gzip.compress(data[2000:])
    assert paths(tar_manifest(pieces(whole, 100))) == ["/", "/f"]
    with pytest.raises(TarError, match="zstd"):
        tar_manifest([b"\x28\xb5\x2f\xfd" + bytes(100)])
    with pytest.raises(TarError, match="broken"):
        tar_manifest([whole[:50] + b"\0" * 50 + whole[100:]])


def sparse(size: int, segments: list[tuple[int, bytes]], how: str) -> bytes:
    stored = b"".join(data for _, data in segments)
    if how == "1.0":
        table = "".join(f"{at}\n{len(data)}\n" for at, data in segments)
        head = f"{len(segments)}\n{table}".encode()
        stored = head.ljust(-(-len(head) // 512) * 512, b"\0") + stored
        headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "f"}
        headers["GNU.sparse.realsize"] = str(size)
    else:
        table = ",".join(f"{at},{len(data)}" for at, data in segments)
        headers = {"GNU.sparse.size": str(size), "GNU.sparse.map": table, "GNU.sparse.name": "f"}
    return archive(member("GNUSparseFile.0/f", stored, pax_headers=headers))


@pytest.mark.parametrize("how", ["0.1", "1.0"])
def test_sparse_files(how: str) -> None:
    content = bytes(1000) + b"island" + bytes(3000) + b"end"
    data = sparse(len(content), [(1000, b"island"), (4006, b"end")], how)
    [_, found] = tar_manifest(pieces(data))
    assert (found.path, found.size, found.digest) == ("/f", len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("how", ["0.1", "1.0"])
def test_a_sparse_file_of_two_tebibytes_takes_no_time(how: str) -> None:
    began = time.process_time()
    first = sparse(2 << 40, [(1 << 40, b"island")], how)
    [_, found] = tar_manifest([first])
    [_, other] = tar_manifest([sparse(2 << 40, [(1 << 40, b"Island")], how)])
    # Zeros that are stored are the same as a hole.
    [_, same] = tar_manifest(
        [sparse(2 << 40, [((1 << 40) - 70_000, bytes(70_000) + b"island" + bytes(9))], how)]
    )
    assert found.size == 2 << 40
    assert found.digest == same.digest != other.digest
    assert time.process_time() - began < 60


def test_holes_of_all_files_together_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_envpar.drift.tar_manifest._MAX_HOLES", 1 << 20)
    with pytest.raises(TarError, match="holes"):
        tar_manifest([sparse((1 << 20) + 5, [(0, b"")], "0.1")])
    assert SPARSE_FROM > 1 << 20


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not an archive" * 100, "not a tar archive"),
        (archive(member("../etc/passwd", b"")), "leads out of it"),
        (archive(member("a/../../b", b"")), "leads out of it"),
        (archive(member("f", b"x" * 5000))[:3000], "cut off"),
        (sparse(100, [(90, b"x" * 20)], "0.1"), "longer than it says"),
        (sparse(100, [(50, b"x"), (10, b"y")], "0.1"), "out of order"),
        (archive(member("f", b"", pax_headers={"size": "99999999999999999999999"})), "number"),
    ],
)
def test_hostile_archives(data: bytes, message: str) -> None:
    with pytest.raises(TarError, match=message):
        tar_manifest([data])


def test_hard_links_that_lead_nowhere_or_in_a_circle() -> None:
    data = archive(
        member("a", type=tarfile.LNKTYPE, linkname="b"),
        member("b", type=tarfile.LNKTYPE, linkname="a"),
        member("self", type=tarfile.LNKTYPE, linkname="self"),
        member("out", type=tarfile.LNKTYPE, linkname="nowhere"),
    )
    made = tar_manifest([data])
    assert paths(made) == ["/", "/a", "/b", "/out", "/self"]
    assert {note.path for note in made.notes()} == {"/a", "/out", "/self"}


def test_too_many_tiny_entries() -> None:
    one = archive(member("f", b""))[:512]

    def endless() -> Any:
        for number in range(10**7):
            name = b"%08d" % number
            header = name + one[len(name) : 148] + b"        " + one[156:512]
            header = header[:148] + b"%06o\0 " % sum(header) + header[156:]
            yield header

    with pytest.raises(ManifestError, match="more than 100 files"):
        tar_manifest(endless(), max_entries=100)


def test_a_large_archive_is_sorted_in_runs() -> None:
    from pytest_envpar.drift.sorting import Sorter

    small, whole = Sorter(run=7), Sorter()
    for sorter in (small, whole):
        for number in range(100):
            sorter.add((f"/{number * 37 % 50:03}", "f644", "0:0", str(number), "", "", "", "0"))
        sorter.link("/zz", "/007")
        sorter.link("/aa", "/zz")
        sorter.imply("/x/y")
    one, two = list(small.finish()), list(whole.finish())
    assert one == two
    assert {entry.path: entry.hardlink for entry in one if entry.hardlink} == {
        "/007": "/007",
        "/aa": "/007",
        "/zz": "/007",
    }


@given(st.binary(max_size=3000))
def test_any_bytes(data: bytes) -> None:
    try:
        tar_manifest([data])
    except (TarError, ManifestError):
        pass


@given(st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_archives_with_bytes_changed(data: st.DataObject) -> None:
    whole = bytearray(
        archive(
            member("d/", type=tarfile.DIRTYPE, mode=0o755),
            member("d/f", b"content", pax_headers={"SCHILY.xattr.user.a": "b", "mtime": "1.5"}),
            member("x" * 150, b"", type=tarfile.LNKTYPE, linkname="d/f"),
            form=data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])),
        )
    )
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    # Half of them with a checksum that fits, so that what is behind it is reached.
    if data.draw(st.booleans()):
        for at in range(0, len(whole) - 511, 512):
            header = whole[at : at + 512]
            if any(header):
                header[148:156] = b"        "
                whole[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    try:
        tar_manifest([bytes(whole)])
    except (TarError, ManifestError):
        pass
