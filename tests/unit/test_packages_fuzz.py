"""No bytes of a side make a parser raise, loop or name a path that is not absolute."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pytest_envpar.drift.content import alike_but_for_noise, text_diff
from pytest_envpar.drift.packages import own_formats
from pytest_envpar.drift.packages.base import Reader
from pytest_envpar.drift.packages.rpm import Header

from .trees import DictTree

if TYPE_CHECKING:
    from pytest_envpar.drift.packages.base import PackageFormat

DATA = Path(__file__).parent / "data"
FORMATS = {each.ecosystem: each for each in own_formats()}
SITE = "/usr/local/lib/python3.12/site-packages"
PLACES: dict[str, tuple[str, ...]] = {
    "dpkg": (
        "/var/lib/dpkg/status",
        "/var/lib/dpkg/info/a.list",
        "/var/lib/dpkg/info/a.md5sums",
        "/var/lib/dpkg/diversions",
        "/var/lib/dpkg/status.d/b",
    ),
    "rpm": ("/var/lib/rpm/rpmdb.sqlite", "/var/lib/rpm/Packages.db", "/var/lib/rpm/Packages"),
    "apk": ("/lib/apk/db/installed",),
    "pip": (
        f"{SITE}/a-1.dist-info/METADATA",
        f"{SITE}/a-1.dist-info/RECORD",
        f"{SITE}/a-1.dist-info/direct_url.json",
        f"{SITE}/b.egg-info/PKG-INFO",
        f"{SITE}/b.egg-info/installed-files.txt",
        f"{SITE}/c.egg-link",
    ),
    "npm": ("/app/node_modules/a/package.json", "/app/node_modules/@s/b/package.json"),
    "conda": ("/opt/conda/conda-meta/a-1-0.json",),
}
BASES: dict[str, bytes] = {
    "dpkg": b"Package: a\nStatus: install ok installed\nVersion: 1\nConffiles:\n /etc/a 0123\n\n/a\n/b\n:\n",
    "rpm": lzma.decompress((DATA / "rpm" / "Packages.xz").read_bytes())[:65_536],
    "apk": b"P:a\nV:1\nF:etc\nR:a\nZ:Q1AAAA\n\n",
    "pip": b'Name: a\nVersion: 1\n\na.py,sha256=AAAA,1\n"x\n{"dir_info": {"editable": true}}',
    "npm": b'{"name": "a", "version": "1"}',
    "conda": b'{"paths_data": {"paths": [{"_path": "a", "sha256": "0"}]}, "files": ["a"]}',
}
WANTED = frozenset(
    ("/etc/a", "/a", f"{SITE}/a.py", "/app/node_modules/a/x", "/opt/conda/a", "/usr/bin/hello")
)


@st.composite
def damaged(draw: st.DrawFn, ecosystem: str) -> bytes:
    """Bytes of any kind, or a right file in which some were replaced, doubled or taken away."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=600))
    data = bytearray(BASES[ecosystem])
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(("replace", "cut", "double", "number")))
        if kind == "replace":
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        else:
            data[at : at + 4] = draw(st.sampled_from((0, 1, 0x7FFF_FFFF, 0xFFFF_FFFF))).to_bytes(4, "big")
    return bytes(data)


def use(each: PackageFormat, files: dict[str, bytes]) -> None:
    reader = Reader(DictTree(files))
    packages = list(each.installed(reader, ("/x/site-packages/y", "/x/node_modules/y", "/x/conda-meta/y")))
    for package in packages:
        assert package.name
        assert package.version
        assert "\n" not in package.name + package.version
    for owned in each.owned(reader, packages, WANTED):
        assert owned.path in WANTED
        assert owned.package in packages
    for path in files:
        each.records(path)


@pytest.mark.parametrize("ecosystem", sorted(FORMATS))
@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_garbage_makes_nothing(ecosystem: str, data: st.DataObject) -> None:
    files = {place: data.draw(damaged(ecosystem)) for place in PLACES[ecosystem]}
    use(FORMATS[ecosystem], files)


CORPUS: tuple[tuple[str, str, bytes], ...] = (
    ("dpkg", PLACES["dpkg"][0], b"Package: ../../x\nStatus: install ok installed\nVersion: 1\n"),
    ("dpkg", PLACES["dpkg"][0], b" continued before any field\n"),
    ("dpkg", PLACES["dpkg"][3], b"one\ntwo"),
    ("apk", PLACES["apk"][0], b"R:file before any folder\nZ:Q1\n"),
    ("apk", PLACES["apk"][0], b"P:\xff\xfe\nV:1\nZ:Q9aaaa"),
    ("pip", PLACES["pip"][1], b'"' + b"x" * 200_000),
    ("pip", PLACES["pip"][1], b"a\0b,,\n"),
    ("pip", PLACES["pip"][2], b"[" * 100_000),
    ("pip", PLACES["pip"][5], b"/\xff/../..\n"),
    ("npm", PLACES["npm"][0], b'{"version": {"a": 1}}'),
    ("npm", PLACES["npm"][0], b"9" * 5_000),
    (
        "conda",
        PLACES["conda"][0],
        b'{"paths_data": {"paths": [1, {"_path": 2}, {"_path": "a", "sha256": []}]}}',
    ),
    ("conda", PLACES["conda"][0], b'{"files": {"a": 1}}'),
    ("rpm", PLACES["rpm"][0], b"SQLite format 3\0" + b"\xff" * 100),
    ("rpm", PLACES["rpm"][1], b"RpmP" + b"\xff" * 200),
    ("rpm", PLACES["rpm"][2], bytes(12) + b"\x61\x15\x06\0" + bytes(4) + b"\0\2\0\0" + b"\xff" * 1000),
)


@pytest.mark.parametrize(("ecosystem", "place", "content"), CORPUS)
def test_corpus(ecosystem: str, place: str, content: bytes) -> None:
    right = dict.fromkeys(PLACES[ecosystem], BASES[ecosystem])
    use(FORMATS[ecosystem], {**right, place: content})


@given(st.binary(max_size=400))
@example(b"\0\0\0\1\0\0\0\0" + b"\0\0\x03\xe8\0\0\0\x08\0\0\0\0\xff\xff\xff\xff")
@settings(deadline=None)
def test_any_header(blob: bytes) -> None:
    header = Header(blob)
    for tag in (1000, 1116, 1117, 1118):
        header.strings(tag)
        header.numbers(tag)


@given(
    st.binary(max_size=300),
    st.binary(max_size=300),
    st.sampled_from(("/x.so", "/x.pyc", "/x.gz", "/etc/shadow")),
)
@example(b"\x7fELF\x02\x01" + b"\xff" * 200, b"\x7fELF\x02\x01" + b"\xfe" * 200, "/x.so")
@example(b"", b"", "/x.gz")
@example(b"\x7fELF\x01\x02" + b"\0" * 200, b"\x7fELF\x01\x02" + b"\0" * 199 + b"\1", "/x.so")
@settings(deadline=None)
def test_any_two_contents(before: bytes, after: bytes, path: str) -> None:
    for magic in (b"", b"\x7fELF\x02\x01", b"\x1f\x8b\x08"):
        alike_but_for_noise(path, magic + before, magic + after)
    text_diff(before, after)
