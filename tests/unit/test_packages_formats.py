"""Package databases, each by what its own tools write: names, versions, owned paths and shipped digests."""

from __future__ import annotations

import base64
import hashlib
import json
import lzma
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.drift.packages.apk import Apk
from pytest_envpar.drift.packages.base import Reader, normal, spellings
from pytest_envpar.drift.packages.conda import Conda
from pytest_envpar.drift.packages.dpkg import Dpkg
from pytest_envpar.drift.packages.inventory import Pair, inventory, pairs
from pytest_envpar.drift.packages.npm import Npm
from pytest_envpar.drift.packages.pip import Pip
from pytest_envpar.drift.packages.rpm import Header, Rpm

from .trees import DictTree, record_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_envpar.drift.model import Package
    from pytest_envpar.drift.packages.base import Owned, PackageFormat

DATA = Path(__file__).parent / "data"


def read(
    each: PackageFormat, files: Mapping[str, bytes | str], *wanted: str, hints: Sequence[str] = ()
) -> tuple[list[Package], list[Owned]]:
    reader = Reader(DictTree(files))
    packages = list(each.installed(reader, hints))
    return packages, list(each.owned(reader, packages, frozenset(wanted)))


def versions(packages: Sequence[Package]) -> dict[str, str]:
    return {package.name: package.version for package in packages}


# --- dpkg ------------------------------------------------------------------------------------------------------------

STATUS = """\
Package: openssl
Status: install ok installed
Priority: optional
Architecture: amd64
Version: 3.0.15-1
Conffiles:
 /etc/ssl/openssl.cnf 11111111111111111111111111111111
 /etc/ssl/old.cnf 22222222222222222222222222222222 obsolete
Description: a toolkit
 more words
 .
 Version: 9 of the text is no version

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: libc6
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Version: 2.36-9

Package: half
Status: install reinstreq half-installed
Version: 1-1
Architecture: all
"""


def test_dpkg_lists_what_is_on_the_disk() -> None:
    packages, _ = read(Dpkg(), {"/var/lib/dpkg/status": STATUS})
    assert versions(packages) == {"openssl": "3.0.15-1", "libc6": "2.36-9", "half": "1-1"}
    assert {package.name: package.origin for package in packages}["libc6"] == "/var/lib/dpkg/info/libc6:amd64"


def test_dpkg_tells_whose_a_file_is_and_what_was_shipped() -> None:
    files = {
        "/var/lib/dpkg/status": STATUS,
        "/var/lib/dpkg/info/openssl.list": "/.\n/usr/bin\n/usr/bin/openssl\n/etc/ssl/openssl.cnf\n/usr/bin/other\n",
        "/var/lib/dpkg/info/openssl.md5sums": f"{'a' * 32}  usr/bin/openssl\n",
        "/var/lib/dpkg/info/libc6:amd64.list": "/lib/libc.so.6\n",
        "/var/lib/dpkg/info/libc6:amd64.md5sums": f"{'b' * 32}  lib/libc.so.6\n",
    }
    _, owned = read(Dpkg(), files, "/usr/bin/openssl", "/etc/ssl/openssl.cnf", "/lib/libc.so.6")
    told = {each.path: (each.package.name, each.digest, each.config) for each in owned}
    assert told == {
        "/usr/bin/openssl": ("openssl", "md5:" + "a" * 32, False),
        "/etc/ssl/openssl.cnf": ("openssl", "md5:" + "1" * 32, True),
        "/lib/libc.so.6": ("libc6", "md5:" + "b" * 32, False),
    }


def test_a_diverted_file_is_where_the_diversion_says() -> None:
    files = {
        "/var/lib/dpkg/status": "Package: tool\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n"
        "Package: wrapper\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n",
        "/var/lib/dpkg/diversions": "/usr/bin/tool\n/usr/bin/tool.real\nwrapper\n",
        "/var/lib/dpkg/info/tool.list": "/usr/bin/tool\n",
        "/var/lib/dpkg/info/tool.md5sums": f"{'a' * 32}  usr/bin/tool\n",
        "/var/lib/dpkg/info/wrapper.list": "/usr/bin/tool\n",
    }
    _, owned = read(Dpkg(), files, "/usr/bin/tool", "/usr/bin/tool.real")
    assert {each.path: (each.package.name, each.digest) for each in owned} == {
        "/usr/bin/tool.real": ("tool", "md5:" + "a" * 32),
        "/usr/bin/tool": ("wrapper", ""),
    }


def test_dpkg_without_a_package_manager() -> None:
    files = {
        "/var/lib/dpkg/status.d/tzdata": "Package: tzdata\nVersion: 2024a\nArchitecture: all\n",
        "/var/lib/dpkg/status.d/tzdata.md5sums": f"{'c' * 32}  usr/share/zoneinfo/UTC\n",
    }
    packages, owned = read(Dpkg(), files, "/usr/share/zoneinfo/UTC")
    assert versions(packages) == {"tzdata": "2024a"}
    assert [each.digest for each in owned] == ["md5:" + "c" * 32]


@pytest.mark.parametrize(
    ("path", "about"),
    [
        ("/var/lib/dpkg/status", ""),
        ("/var/lib/dpkg/info/libc6:amd64.list", "libc6"),
        ("/var/lib/dpkg/info/python3.11.postinst", "python3.11"),
        ("/var/lib/dpkg/status.d/tzdata.md5sums", "tzdata"),
        ("/var/lib/dpkg/alternatives/awk", None),
        ("/usr/bin/dpkg", None),
    ],
)
def test_dpkg_knows_its_own_files(path: str, about: str | None) -> None:
    assert Dpkg().records(path) == about


# --- rpm -------------------------------------------------------------------------------------------------------------


def ndb(blobs: Sequence[bytes]) -> bytes:
    """Headers in SUSE's database, by its source."""
    slots = bytearray(b"RpmP" + (0).to_bytes(4, "little") * 2 + (1).to_bytes(4, "little") + bytes(16))
    body = bytearray()
    for index, blob in enumerate(blobs, 1):
        block = (4096 + len(body)) // 16
        slots += b"Slot" + b"".join(
            number.to_bytes(4, "little") for number in (index, block, len(blob) // 16 + 2)
        )
        body += b"BlbS" + b"".join(number.to_bytes(4, "little") for number in (index, 1, len(blob))) + blob
        body += bytes(-len(body) % 16)
    return bytes(slots.ljust(4096, b"\0") + body)


def rpm_files(form: str) -> dict[str, bytes | str]:
    """A database with two packages that ``rpmbuild`` made: ``rpm`` wrote the SQLite one, ``db5.3_load`` the other."""
    if form == "ndb":
        from pytest_envpar.drift.packages import rpmdb

        blobs = [blob for _, blob in rpmdb.headers(Reader(DictTree(rpm_files("rpmdb.sqlite"))))]
        return {"/usr/lib/sysimage/rpm/Packages.db": ndb(blobs)}
    return {f"/var/lib/rpm/{form}": lzma.decompress((DATA / "rpm" / f"{form}.xz").read_bytes())}


@pytest.mark.parametrize("form", ["rpmdb.sqlite", "Packages", "ndb"])
def test_rpm_databases(form: str) -> None:
    packages, owned = read(Rpm(), rpm_files(form), "/usr/bin/hello", "/etc/hello.conf", "/opt/many/file-7")
    assert versions(packages) == {"hello": "1:2.10-3", "many": "0.1-1"}
    told = {each.path: (each.package.name, each.digest, each.config) for each in owned}
    digest = hashlib.sha256(b"7\n").hexdigest()
    assert told["/opt/many/file-7"] == ("many", f"sha256:{digest}", False)
    assert told["/usr/bin/hello"][1] == "sha256:" + hashlib.sha256(b"echo hello\n").hexdigest()
    assert told["/etc/hello.conf"][2]


def test_a_damaged_header_has_no_tags() -> None:
    header = Header(b"\0\0\0\x01\xff\xff\xff\xff" + bytes(16))
    assert header.strings(1000) == []
    assert header.numbers(1116) == ()


def test_a_view_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib
    import sqlite3

    from pytest_envpar.drift.packages import rpmdb

    monkeypatch.setattr(rpmdb, "_MAX_STEPS", 1_000_000)
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as base:
        base.execute(
            "CREATE VIEW Packages AS WITH RECURSIVE more(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM more) "
            "SELECT n AS hnum, 'text' AS blob FROM more"
        )
        base.commit()
    packages, _ = read(Rpm(), {"/var/lib/rpm/rpmdb.sqlite": (tmp_path / "db").read_bytes()})
    assert packages == []


# --- apk -------------------------------------------------------------------------------------------------------------

SHA1 = base64.b64encode(hashlib.sha1(b"x", usedforsecurity=False).digest()).decode()
INSTALLED = f"""\
C:Q1abc=
P:musl
V:1.2.4-r2
A:x86_64
F:lib
R:ld-musl-x86_64.so.1
a:0:0:755
Z:Q1{SHA1}
F:etc/conf.d
R:musl
Z:Q1notbase64!

P:busybox
V:1.36.1-r5
F:bin
R:busybox
"""


@pytest.mark.parametrize("folder", ["/lib/apk/db", "/usr/lib/apk/db"])
def test_apk(folder: str) -> None:
    wanted = ("/lib/ld-musl-x86_64.so.1", "/etc/conf.d/musl", "/bin/busybox", "/lib")
    packages, owned = read(Apk(), {f"{folder}/installed": INSTALLED}, *wanted)
    assert versions(packages) == {"musl": "1.2.4-r2", "busybox": "1.36.1-r5"}
    assert {each.path: (each.package.name, each.digest, each.config) for each in owned} == {
        "/lib": ("musl", "", False),
        "/lib/ld-musl-x86_64.so.1": (
            "musl",
            "sha1:" + hashlib.sha1(b"x", usedforsecurity=False).hexdigest(),
            False,
        ),
        "/etc/conf.d/musl": ("musl", "", True),
        "/bin/busybox": ("busybox", "", False),
    }


# --- pip -------------------------------------------------------------------------------------------------------------

SITE = "/usr/local/lib/python3.12/site-packages"


def metadata(name: str, version: str) -> str:
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nVersion: 9 of the description\n"


def test_pip_reads_record_with_digests_and_paths_outside() -> None:
    files: dict[str, bytes | str] = {
        f"{SITE}/My_Pack-1.0.dist-info/METADATA": metadata("My.Pack", "1.0"),
        f"{SITE}/My_Pack-1.0.dist-info/RECORD": f'my/__init__.py,{record_digest(b"x")},1\n"my/a,b.py",md5=xx,1\n'
        "../../../bin/my,,\n/opt/absolute,,\n",
    }
    packages, owned = read(
        Pip(), files, f"{SITE}/my/__init__.py", f"{SITE}/my/a,b.py", "/usr/local/bin/my", "/opt/absolute"
    )
    assert versions(packages) == {"my-pack": "1.0"}
    assert {each.path: each.digest for each in owned} == {
        f"{SITE}/my/__init__.py": "sha256:" + hashlib.sha256(b"x").hexdigest(),
        f"{SITE}/my/a,b.py": "",
        "/usr/local/bin/my": "",
        "/opt/absolute": "",
    }


def test_pip_finds_virtual_environments_and_places_in_which_something_differs() -> None:
    files: dict[str, bytes | str] = {
        f"{site}/pkg-{version}.dist-info/METADATA": metadata("pkg", version)
        for site, version in (
            ("/opt/venv/lib/python3.11/site-packages", "1"),
            ("/usr/lib/python3/dist-packages", "2"),
            ("/srv/deep/env/lib/python3.9/site-packages", "3"),
        )
    }
    assert [each.version for each in read(Pip(), files)[0]] == ["1", "2"]
    hint = "/srv/deep/env/lib/python3.9/site-packages/pkg/x.py"
    assert [each.version for each in read(Pip(), files, hints=[hint])[0]] == ["1", "3", "2"]


def test_pip_eggs_and_editable_installations() -> None:
    files: dict[str, bytes | str] = {
        f"{SITE}/old.egg-info/PKG-INFO": metadata("old", "0.1"),
        f"{SITE}/old.egg-info/installed-files.txt": "../old/x.py\nPKG-INFO\n",
        f"{SITE}/flat-0.2.egg-info": metadata("flat", "0.2"),
        f"{SITE}/mine-1.dist-info/METADATA": metadata("mine", "1"),
        f"{SITE}/mine-1.dist-info/direct_url.json": json.dumps(
            {"url": "file:///src", "dir_info": {"editable": True}}
        ),
        f"{SITE}/linked.egg-link": "/src/linked\n.",
        "/src/linked/linked.egg-info/PKG-INFO": metadata("linked", "3"),
    }
    packages, owned = read(Pip(), files, f"{SITE}/old/x.py")
    assert versions(packages) == {
        "old": "0.1",
        "flat": "0.2",
        "mine": "1 (editable)",
        "linked": "3 (editable)",
    }
    assert [(each.path, each.package.name) for each in owned] == [(f"{SITE}/old/x.py", "old")]


# --- npm and conda ---------------------------------------------------------------------------------------------------


def test_npm_scoped_and_nested() -> None:
    root = "/app/node_modules"
    files: dict[str, bytes | str] = {
        f"{root}/left-pad/package.json": '{"name": "left-pad", "version": "1.3.0"}',
        f"{root}/@babel/core/package.json": '{"name": "@babel/core", "version": "7.0.0"}',
        f"{root}/left-pad/node_modules/inner/package.json": '{"name": "inner", "version": "2.0.0"}',
        f"{root}/.bin/x": "",
        f"{root}/broken/package.json": "[1",
    }
    inner = f"{root}/left-pad/node_modules/inner/index.js"
    packages, owned = read(
        Npm(), files, inner, f"{root}/@babel/core/lib/a.js", f"{root}/left-pad/a.js", "/app/x"
    )
    assert versions(packages) == {"left-pad": "1.3.0", "@babel/core": "7.0.0", "inner": "2.0.0"}
    assert {each.path: each.package.name for each in owned} == {
        inner: "inner",
        f"{root}/@babel/core/lib/a.js": "@babel/core",
        f"{root}/left-pad/a.js": "left-pad",
    }


def test_conda() -> None:
    digest = "d" * 64
    record = {
        "name": "ca-certificates",
        "files": ["ssl/cacert.pem"],
        "paths_data": {
            "paths": [{"_path": "ssl/cacert.pem", "sha256": "e" * 64, "sha256_in_prefix": digest}]
        },
    }
    files: dict[str, bytes | str] = {
        "/opt/conda/conda-meta/ca-certificates-2024.2.2-h06a4308_0.json": json.dumps(record),
        "/opt/conda/conda-meta/history": "",
        "/opt/conda/envs/two/conda-meta/python-3.12.1-0.json": json.dumps({"files": ["bin/python"]}),
    }
    packages, owned = read(Conda(), files, "/opt/conda/ssl/cacert.pem", "/opt/conda/envs/two/bin/python")
    assert versions(packages) == {"ca-certificates": "2024.2.2-h06a4308_0", "python": "3.12.1-0"}
    assert {each.path: each.digest for each in owned} == {
        "/opt/conda/ssl/cacert.pem": f"sha256:{digest}",
        "/opt/conda/envs/two/bin/python": "",
    }


# --- what they share -------------------------------------------------------------------------------------------------


def test_spellings_of_a_merged_usr() -> None:
    assert set(spellings("/usr/bin/env")) == {"/usr/bin/env", "/bin/env"}
    assert set(spellings("/lib/x86_64-linux-gnu/libc.so.6")) >= {"/usr/lib/x86_64-linux-gnu/libc.so.6"}
    assert set(spellings("/run/x")) == {"/run/x", "/var/run/x"}
    assert spellings("/opt/x") == ("/opt/x",)


def test_paths_of_a_database_stay_absolute() -> None:
    assert normal("/a/../../etc/./x//y") == "/etc/x/y"
    assert normal("relative") == ""
    assert normal("/a\0b") == ""


def test_what_is_too_large_is_absent_and_noted() -> None:
    reader = Reader(DictTree({"/var/lib/dpkg/status.d/big": "x" * 2_000_000}))
    assert inventory(reader, [Dpkg()]) == ()
    assert reader.too_large == ["/var/lib/dpkg/status.d/big"]


def test_pairs_of_several_installations() -> None:
    from pytest_envpar.drift.model import Package

    one, two = Package("pip", "a", "1", "/x"), Package("pip", "a", "2", "/y")
    moved = Package("pip", "a", "1", "/z")
    assert pairs([one, two], [two, moved]) == [Pair(two, two), Pair(one, moved)]
    assert pairs([one], [two]) == [Pair(one, two)]
    assert pairs([one, two], [two]) == [Pair(two, two), Pair(one, None)]
    assert [pair.differs for pair in pairs([one], [moved])] == [False]
