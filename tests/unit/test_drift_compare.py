"""The comparison of two streams of entries, and the encoded form that they are kept in."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_envpar.drift import manifest, records
from pytest_envpar.drift.compare import compare
from pytest_envpar.drift.manifest import Manifest, ManifestError
from pytest_envpar.drift.model import Entry, NotCompared, sort_key

DIGEST = hashlib.sha256(b"x").hexdigest()
OTHER = hashlib.sha256(b"y").hexdigest()


def file(path: str = "/f", **fields: Any) -> Entry:
    return dataclasses.replace(Entry(path, "file", 0o644, size=1, digest=DIGEST), **fields)


def told(left: list[Entry], right: list[Entry], **options: Any) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(change.path, change.kind, change.attributes) for change in compare(left, right, **options)]


@pytest.mark.parametrize(
    ("changes", "attributes"),
    [
        ({"digest": OTHER}, ("content",)),
        ({"size": 2}, ("content",)),
        ({"mode": 0o4755}, ("mode",)),
        ({"uid": 1}, ("owner",)),
        ({"gid": 1}, ("owner",)),
        ({"xattrs": (("user.a", b""),)}, ("xattr",)),
        ({"hardlink": "/a"}, ("hardlink",)),
        (
            {"digest": OTHER, "mode": 0o600, "uid": 5, "hardlink": "/a"},
            ("content", "mode", "owner", "hardlink"),
        ),
        ({"mtime_ns": 5}, ()),
    ],
)
def test_each_attribute_of_a_file(changes: dict[str, Any], attributes: tuple[str, ...]) -> None:
    expected = [("/f", "modified", attributes)] if attributes else []
    assert told([file()], [file(**changes)]) == expected
    assert told([file(**changes)], [file()]) == expected


def test_targets_devices_and_types() -> None:
    link = Entry("/f", "link", 0o777, target="/a")
    device = Entry("/f", "character", 0o600, device=(1, 3))
    assert told([link], [dataclasses.replace(link, target="/b")]) == [("/f", "modified", ("target",))]
    assert told([link], [dataclasses.replace(link, mode=0o755)]) == []
    assert told([device], [dataclasses.replace(device, device=(1, 5))]) == [("/f", "modified", ("device",))]
    assert told([file()], [link]) == [("/f", "modified", ("type",))]
    assert told([device], [dataclasses.replace(device, type="block")]) == [("/f", "modified", ("type",))]


def test_times_count_on_request_and_only_as_finely_as_both_sides_have_them() -> None:
    left = [file(mtime_ns=5_000_000_007)]
    assert told(left, [file(mtime_ns=5_000_000_008)], mtime=True) == [("/f", "modified", ("mtime",))]
    assert told(left, [file(mtime_ns=5_000_000_000)], mtime=True) == []
    assert told(left, [file(mtime_ns=6_000_000_000)], mtime=True) == [("/f", "modified", ("mtime",))]


def test_a_file_that_was_not_read_is_told_and_not_called_equal() -> None:
    unread: list[str] = []
    assert told([file(digest="")], [file()], unread=unread.append) == []
    assert told([file(digest="", size=3)], [file()], unread=unread.append) == [
        ("/f", "modified", ("content",))
    ]
    assert unread == ["/f", "/f"]


def test_added_and_removed_in_the_order_of_a_tree() -> None:
    paths = ["/", "/a", "/a/x", "/a-b", "/a.b", "/b"]  # "-" and "." come before "/" in plain text
    entries = [Entry(path, "directory", 0o755) for path in paths]
    assert sorted(paths, key=sort_key) == paths == sorted(paths, key=records.order)
    assert told([], entries) == [(path, "added", ()) for path in paths]
    assert told(entries, []) == [(path, "removed", ()) for path in paths]
    assert told(entries[::2], entries[1::2]) == [
        (path, "added" if at % 2 else "removed", ()) for at, path in enumerate(paths)
    ]


# Any bytes but a slash and a zero, as names of a file system are.
NAMES = st.binary(min_size=1, max_size=8).map(
    lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_").decode("utf-8", "surrogateescape")
)
PATHS = st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=4).map(
    lambda names: "/" + "/".join(names)
)


@st.composite
def entries(draw: st.DrawFn) -> list[Entry]:
    made = []
    for path in sorted(draw(st.sets(PATHS, max_size=12)), key=sort_key):
        kind = draw(st.sampled_from(["file", "directory", "link", "character", "fifo"]))
        made.append(
            Entry(
                path,
                kind,  # type: ignore[arg-type]
                draw(st.sampled_from([0o644, 0o4755, 0, 0o7777])),
                uid=draw(st.integers(0, 2**32 - 1)),
                size=draw(st.integers(0, 2**40)) if kind == "file" else 0,
                digest=draw(st.sampled_from([DIGEST, OTHER, ""])) if kind == "file" else "",
                target=draw(PATHS) if kind == "link" else "",
                device=(1, draw(st.integers(0, 255))) if kind == "character" else None,
                xattrs=draw(
                    st.sampled_from([(), (("security.capability", b"\0\1\xff"), ("user.\udcff", b""))])
                ),
                mtime_ns=draw(st.integers(-(2**40), 2**62)),
            )
        )
    return made


@given(entries(), entries())
def test_a_comparison_is_symmetric_and_finds_what_a_plain_one_finds(
    left: list[Entry], right: list[Entry]
) -> None:
    before, after = ({entry.path: entry for entry in side} for side in (left, right))
    there = list(compare(left, right))
    back = list(compare(right, left))
    assert [change.path for change in there] == [change.path for change in back]
    assert [change.attributes for change in there] == [change.attributes for change in back]
    assert {change.path for change in there if change.kind == "added"} == after.keys() - before.keys()
    assert {change.path for change in there if change.kind == "removed"} == before.keys() - after.keys()
    assert list(compare(left, left)) == []


@given(entries())
def test_what_is_written_is_read_again(made: list[Entry]) -> None:
    kept = Manifest(manifest.build(made).to_bytes())
    assert list(kept) == made
    assert kept.count == len(made)
    for entry in made:
        found = kept.get(entry.path)
        assert found is not None
        assert records.entry(found) == entry
        rest = [each for each in made if sort_key(each.path) > sort_key(entry.path)]
        assert [each[0] for each in kept.records(after=entry.path)] == [each.path for each in rest]
    assert kept.get("/none/here") is None


@given(entries())
def test_the_fingerprint_is_that_of_the_entries_without_their_times(made: list[Entry]) -> None:
    untouched = [dataclasses.replace(entry, mtime_ns=0) for entry in made]
    assert manifest.build(made).fingerprint == manifest.build(untouched).fingerprint
    if made:
        other = [dataclasses.replace(made[0], gid=made[0].gid + 1), *made[1:]]
        assert manifest.build(other).fingerprint != manifest.build(made).fingerprint


def test_the_fingerprint_does_not_change_from_version_to_version() -> None:
    made = [Entry("/", "directory", 0o755), file("/a", hardlink="/a"), file("/b", hardlink="/a")]
    assert (
        manifest.build(made).fingerprint == "4b7950c3d5bdb8c598f6ff9221ca097fc6f200b5b059ed55cc93c60ff4d940da"
    )


@given(entries(), st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_broken_manifest_is_an_error_and_nothing_worse(made: list[Entry], data: st.DataObject) -> None:
    whole = bytearray(manifest.build(made).to_bytes())
    how = data.draw(st.sampled_from(["cut", "flip", "insert"]))
    at = data.draw(st.integers(0, len(whole) - 1))
    if how == "cut":
        del whole[at:]
    elif how == "flip":
        whole[at] ^= data.draw(st.integers(1, 255))
    else:
        whole[at:at] = data.draw(st.binary(min_size=1, max_size=8))
    try:
        broken = Manifest(bytes(whole))
        list(broken)
        broken.links()
        broken.notes()
        broken.get("/a")
    except ManifestError:
        pass


@given(st.binary(max_size=400))
def test_bytes_that_are_no_manifest(data: bytes) -> None:
    with pytest.raises(ManifestError, match="broken"):
        Manifest(data)


@pytest.mark.parametrize(
    "made",
    [
        ("/../etc/passwd", "f644", "0:0", "0", "", "", "", "0"),
        ("etc", "d755", "0:0", "", "", "", "", "0"),
        ("/a//b", "d755", "0:0", "", "", "", "", "0"),
        ("/a/", "d755", "0:0", "", "", "", "", "0"),
        ("/a", "w", "0:0", "", "", "", "", "0"),
        ("/a", "f99", "0:0", "0", "", "", "", "0"),
        ("/a", "f644", "0", "0", "", "", "", "0"),
        ("/a", "f644", "0:0", "-1", "", "", "", "0"),
        ("/a", "f644", "0:0", "0", "zz", "", "", "0"),
        ("/a", "d755", "0:0", "", DIGEST, "", "", "0"),
        ("/a", "f644", "0:0", "0", "", "/b", "", "0"),
        ("/a", "f644", "0:0", "0", "", "", "=", "0"),
        ("/a", "f644", "0:0", "0", "", "", "", "now"),
        ("/a", "f644", "0:0", "0", "", "", "", "9999999999999999999"),
        ("/\ud800", "f644", "0:0", "0", "", "", "", "0"),
    ],
)
def test_records_that_no_honest_producer_makes(made: records.Record) -> None:
    with pytest.raises(ManifestError, match="must not"):
        manifest.write([made])


def test_entries_out_of_order_are_refused() -> None:
    with pytest.raises(ManifestError, match="out of order"):
        manifest.build([file("/b"), file("/a")])
    with pytest.raises(ManifestError, match="out of order"):
        manifest.build([file("/a"), file("/a")])


def test_too_many_entries_are_refused() -> None:
    with pytest.raises(ManifestError, match="more than 3 files"):
        manifest.build([file(f"/{at}") for at in range(5)], max_entries=3)


def test_a_file_whose_other_names_are_elsewhere_has_one_name() -> None:
    made = manifest.build([file("/a", hardlink="/a"), file("/b", hardlink="/b"), file("/c", hardlink="/b")])
    assert [entry.hardlink for entry in made] == ["", "/b", "/b"]
    assert made.links() == [("/b", "/b"), ("/c", "/b")]
    assert made.fingerprint == manifest.build(list(made)).fingerprint


def test_a_large_manifest_is_read_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_SPOOL_BYTES", 1000)
    entries = [file(f"/{at:05}", digest=hashlib.sha256(b"%d" % at).hexdigest()) for at in range(2000)]
    made = manifest.build(entries)
    assert list(made) == entries
    assert list(Manifest(made.to_bytes())) == entries
    made.close()


def test_notes_are_kept() -> None:
    note = NotCompared("/a", "it was written to while it was read")
    assert manifest.write([], notes=lambda: [note]).notes() == (note,)
