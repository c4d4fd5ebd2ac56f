"""From a comparison to findings: what is one line, what is hidden and why, and of which level it is."""

from __future__ import annotations

import datetime as dt
import hashlib
import struct
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.config import schema
from pytest_envpar.config.model import Allow, DriftPolicy, Ignore
from pytest_envpar.drift.assess import assess
from pytest_envpar.drift.content import alike_but_for_noise, text_diff
from pytest_envpar.drift.globs import matches
from pytest_envpar.drift.model import Change, Comparison, ConfigChange, Entry, NotCompared, sort_key
from pytest_envpar.drift.policy import EVERY_PRESET, Policy, unused
from pytest_envpar.drift.runtime import is_runtime_package, is_runtime_path
from pytest_envpar.drift.secret import is_secret_file

from .trees import DictTree, entry, record_digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_envpar.drift.findings import Drift
    from pytest_envpar.drift.model import Level

TODAY = dt.date(2026, 6, 1)
PLAIN = Policy(TODAY)
BARE = Policy(TODAY, presets=())


def compared(left: DictTree, right: DictTree, *, extra: Iterable[Change] = ()) -> Comparison:
    """What a producer would say of two dicts of files."""
    changes = list(extra)
    for path in {*left.files, *right.files}:
        before = left.entry(path) if path in left.files else None
        after = right.entry(path) if path in right.files else None
        if before is None or after is None:
            changes.append(Change(path, "added" if before is None else "removed", (), before, after))
        elif before != after:
            changes.append(Change(path, "modified", ("content",), before, after))
    changes.sort(key=lambda change: sort_key(change.path))
    return Comparison("dev", "qa", "layers", tuple(changes))


def judged(left: dict[str, bytes | str], right: dict[str, bytes | str], policy: Policy = PLAIN) -> Drift:
    one, other = DictTree(left), DictTree(right)
    return assess(compared(one, other), one, other, policy)


def folder(path: str) -> Change:
    return Change(path, "added", after=Entry(path, "directory", 0o755))


def dpkg(
    name: str, version: str, files: dict[str, str], conffiles: dict[str, str] | None = None
) -> dict[str, bytes | str]:
    """A package as Debian's would be on a side."""
    md5 = {
        path: hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() for path, text in files.items()
    }
    told = "".join(f"\n {path} {md5[path]}" for path in conffiles or ())
    status = f"Package: {name}\nStatus: install ok installed\nArchitecture: all\nVersion: {version}\n"
    status += f"Conffiles:{told}\n" if told else ""
    info = f"/var/lib/dpkg/info/{name}"
    sums = "".join(f"{md5[path]}  {path[1:]}\n" for path in files if path not in (conffiles or ()))
    return {
        "/var/lib/dpkg/status": status,
        f"{info}.list": "".join(f"{path}\n" for path in files),
        f"{info}.md5sums": sums,
        **files,
        **(conffiles or {}),
    }


def test_a_package_is_one_line_with_all_of_its_files() -> None:
    left = dpkg("openssl", "3.0.15", {"/usr/bin/openssl": "a", "/usr/share/openssl/x": "1"})
    right = dpkg("openssl", "3.0.17", {"/usr/bin/openssl": "b", "/usr/share/openssl/y": "1"})
    drift = judged(left, right)
    (finding,) = drift.packages
    change = finding.change
    assert (change.name, change.before, change.after) == ("openssl", "3.0.15", "3.0.17")
    assert change.tampered == ()
    # Three files of its own, and its list and md5sums.
    assert change.files == 5
    assert finding.level == "runtime"
    assert list(drift.levels()) == ["runtime"]
    assert {each.owner for each in drift.files} == {"dpkg:openssl"}
    assert {hidden.reason: hidden.names for hidden in drift.hidden} == {
        "package databases: what they record is compared": ("/var/lib/dpkg/status",)
    }


def test_an_altered_file_of_a_package_is_named() -> None:
    files = {"/usr/bin/tool": "shipped", "/usr/bin/other": "x"}
    left, right = dpkg("tool", "1", files), dpkg("tool", "1", files)
    right["/usr/bin/tool"] = "patched"
    drift = judged(left, right)
    (finding,) = drift.packages
    assert (finding.change.before, finding.change.after, finding.change.files) == ("1", "1", 1)
    assert finding.change.tampered == ("/usr/bin/tool",)
    assert [each.tampered for each in drift.files] == [True]


def test_a_file_that_its_package_still_lists_is_missed_but_not_documentation() -> None:
    files = {"/usr/bin/tool": "x", "/usr/share/doc/tool/README": "y"}
    right = dpkg("tool", "1", files)
    del right["/usr/bin/tool"], right["/usr/share/doc/tool/README"]
    (finding,) = judged(dpkg("tool", "1", files), right).packages
    assert finding.change.files == 2
    assert finding.change.tampered == ("/usr/bin/tool",)


def test_an_edited_configuration_file_of_a_package_is_a_finding_of_its_own() -> None:
    files = {"/etc/tool.conf": "shipped", "/usr/bin/tool": "1"}
    left = dpkg("tool", "1", files, {"/etc/tool.conf": "shipped"})
    right = dpkg("tool", "1", files, {"/etc/tool.conf": "edited"})
    drift = judged(left, right)
    assert drift.packages == ()
    (finding,) = drift.files
    assert (finding.change.path, finding.level, finding.owner, finding.tampered) == (
        "/etc/tool.conf",
        "config",
        "dpkg:tool",
        False,
    )


def test_a_configuration_file_that_came_with_a_new_version_is_the_packages() -> None:
    left = dpkg("tool", "1", {"/etc/tool.conf": "one"}, {"/etc/tool.conf": "one"})
    right = dpkg("tool", "2", {"/etc/tool.conf": "two"}, {"/etc/tool.conf": "two"})
    drift = judged(left, right)
    assert [finding.level for finding in drift.packages] == ["package"]
    assert list(drift.levels()) == ["package"]


def test_a_merged_usr_does_not_hide_an_owner() -> None:
    left, right = dpkg("bash", "1", {"/bin/bash": "a"}), dpkg("bash", "2", {"/bin/bash": "b"})
    for side in (left, right):
        side["/usr/bin/bash"] = side.pop("/bin/bash")
    drift = judged(left, right)
    assert [each.owner for each in drift.files if each.change.path == "/usr/bin/bash"] == ["dpkg:bash"]


def test_a_pip_package_with_its_folder_and_bytecode() -> None:
    site = "/usr/local/lib/python3.12/site-packages"
    info = f"{site}/six-1.0.dist-info"
    right: dict[str, bytes | str] = {
        f"{site}/six/__init__.py": "x",
        f"{site}/six/__pycache__/__init__.cpython-312.pyc": "y",
        f"{info}/METADATA": "Name: six\nVersion: 1.0\n",
        f"{info}/RECORD": f"six/__init__.py,{record_digest(b'x')},1\nsix-1.0.dist-info/METADATA,,\n",
    }
    one, other = DictTree({}), DictTree(right)
    folders = [folder(path) for path in (f"{site}/six", info, f"{site}/six/__pycache__")]
    drift = assess(compared(one, other, extra=folders), one, other, PLAIN)
    assert [(each.change.name, each.change.before, each.change.after) for each in drift.packages] == [
        ("six", None, "1.0")
    ]
    assert list(drift.levels()) == ["package"]
    (hidden,) = drift.hidden
    assert hidden.count == 2
    assert hidden.reason.startswith("bytecode")


def test_a_language_package_inside_a_systems_package_is_said_once() -> None:
    site = "/usr/lib/python3/dist-packages"
    left = dpkg(
        "python3-six",
        "1.0-1",
        {f"{site}/six.py": "a", f"{site}/six-1.0.egg-info": "Name: six\nVersion: 1.0\n"},
    )
    right = dpkg(
        "python3-six",
        "1.1-1",
        {f"{site}/six.py": "b", f"{site}/six-1.1.egg-info": "Name: six\nVersion: 1.1\n"},
    )
    drift = judged(left, right)
    assert [each.key for each in drift.packages] == ["dpkg:python3-six"]
    assert all(each.owner == "dpkg:python3-six" for each in drift.files)


def test_levels_of_paths_and_configuration() -> None:
    one = DictTree({})
    other = DictTree(
        {"/etc/app.conf": "", "/opt/x": "", "/usr/local/lib/python3.12/os.py": "", "/lib/libssl.so.3": ""}
    )
    told = compared(one, other)
    told = Comparison(
        *("dev", "qa", "layers"),
        told.changes,
        (ConfigChange("env.A", None, "1"), ConfigChange("architecture", "amd64", "arm64")),
        (NotCompared("/tmp", "tmpfs"),),
    )
    drift = assess(told, one, other, PLAIN)
    assert {each.change.path: each.level for each in drift.files} == {
        "/etc/app.conf": "config",
        "/opt/x": "file",
        "/usr/local/lib/python3.12/os.py": "runtime",
        "/lib/libssl.so.3": "runtime",
    }
    assert [each.level for each in drift.config] == ["config", "runtime"]
    assert [each.path for each in drift.not_compared] == ["/tmp"]
    assert (drift.count("runtime"), drift.count("config"), drift.count("file")) == (3, 2, 1)


def test_a_hook_may_correct_a_level_and_a_layer_names_its_instruction() -> None:
    one, other = DictTree({}), DictTree({"/models/a.bin": ""})

    def classify(change: Change, level: Level) -> Level | None:
        assert level == "file"
        return "config" if change.path.startswith("/models/") else None

    def made_by(change: Change) -> str | None:
        return {"/models/a.bin": "COPY models /models"}.get(change.path)

    drift = assess(compared(one, other), one, other, PLAIN, classify=classify, instruction_of=made_by)
    assert [(each.level, each.instruction) for each in drift.files] == [("config", "COPY models /models")]


# --- policy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "fails"),
    [
        ("none", False),
        ("any", True),
        ("file", True),
        ("config", True),
        ("package", False),
        ("runtime", False),
    ],
)
def test_fail_on_means_this_level_or_a_higher_one(on: str, fails: bool) -> None:
    drift = judged({}, {"/etc/x": ""})
    assert drift.fails(on) is fails  # type: ignore[arg-type]


def test_ignored_paths_are_counted_with_their_reason() -> None:
    policy = Policy.of(DriftPolicy(ignore=(Ignore("/var/log/**", "logs"),)), TODAY)
    one, other = DictTree({}), DictTree({"/var/log/app/x": "", "/var/log/y": ""})
    drift = assess(
        compared(one, other, extra=[folder("/var/log/app"), folder("/var/log")]), one, other, policy
    )
    assert drift.equal
    assert [(each.reason, each.count) for each in drift.hidden] == [("ignored: logs", 4)]


def test_a_folder_with_more_than_noise_is_shown() -> None:
    one, other = DictTree({}), DictTree({"/opt/__pycache__/x.pyc": "", "/opt/y": ""})
    drift = assess(
        compared(one, other, extra=[folder("/opt"), folder("/opt/__pycache__")]), one, other, PLAIN
    )
    assert [each.change.path for each in drift.files] == ["/opt", "/opt/y"]


def tzdata(policy: Policy) -> Drift:
    left = dpkg("tzdata", "1", {"/usr/share/zoneinfo/UTC": "a"})
    return judged(left, dpkg("tzdata", "2", {"/usr/share/zoneinfo/UTC": "b"}), policy)


def test_an_allowed_package_is_hidden_with_its_files() -> None:
    policy = Policy(TODAY, allow=(Allow("tzdata", "rolling", "2026-06-01"),))
    drift = tzdata(policy)
    assert drift.equal
    assert drift.files == ()
    assert ("allowed: rolling", ("dpkg:tzdata",)) in [(each.reason, each.names) for each in drift.hidden]


def test_an_allowance_after_its_last_day_is_a_finding_and_allows_nothing() -> None:
    drift = tzdata(Policy(TODAY, allow=(Allow("tzdata", "rolling", "2026-05-31"),)))
    assert [each.key for each in drift.packages] == ["dpkg:tzdata"]
    assert [(each.package, each.state, each.level) for each in drift.allowances] == [
        ("tzdata", "expired", "config")
    ]
    assert drift.fails("config")


def test_an_allowance_does_not_cover_tampering() -> None:
    left = dpkg("tzdata", "1", {"/usr/share/zoneinfo/UTC": "a"})
    right = dict(left) | {"/usr/share/zoneinfo/UTC": "patched"}
    drift = judged(left, right, Policy(TODAY, allow=(Allow("tzdata", "rolling"),)))
    assert [each.change.tampered for each in drift.packages] == [("/usr/share/zoneinfo/UTC",)]


def test_unused_allowances_are_found_over_all_comparisons() -> None:
    policy = Policy(
        TODAY,
        allow=(
            Allow("tzdata", "rolling"),
            Allow("pip:six", "old"),
            Allow("lib*", "libraries"),
            Allow("apt", "over", "2026-05-31"),
        ),
    )
    seen = [finding.change for finding in tzdata(PLAIN).packages]
    assert [(each.package, each.state) for each in unused(policy, seen)] == [
        ("pip:six", "unused"),
        ("lib*", "unused"),
        ("apt", "expired"),
    ]


NOISE = (
    *(
        "/app/__pycache__/a.cpython-311.pyc",
        "/etc/ld.so.cache",
        "/var/log/dpkg.log",
        "/var/log/apt/history.log",
    ),
    *("/var/cache/apt/pkgcache.bin", "/var/lib/apt/lists/x_InRelease", "/etc/machine-id", "/etc/passwd-"),
    *("/root/.cache/pip/http/x", "/var/cache/ldconfig/aux-cache"),
)


@pytest.mark.parametrize("path", NOISE)
def test_presets_hide_noise_and_can_be_switched_off(path: str) -> None:
    one, other = DictTree({path: "a"}), DictTree({path: "b"})
    told = compared(one, other)
    assert assess(told, one, other, PLAIN).equal
    assert not assess(told, one, other, BARE).equal


def test_one_preset_can_be_switched_off() -> None:
    policy = Policy.of(DriftPolicy(), TODAY, without=("bytecode",))
    assert set(policy.presets) == EVERY_PRESET - {"bytecode"}
    assert [each.change.path for each in judged({}, {"/x.pyc": "", "/etc/machine-id": ""}, policy).files] == [
        "/x.pyc"
    ]


def test_the_configuration_switches_presets_off() -> None:
    assert set(schema.PRESETS) == EVERY_PRESET
    policy = Policy.of(DriftPolicy(no_presets=("bytecode",)), TODAY, without=["mtime"])
    assert set(policy.presets) == EVERY_PRESET - {"bytecode", "mtime"}
    assert not Policy.of(DriftPolicy(no_presets=("all",)), TODAY).presets


def test_times_alone_are_noise() -> None:
    change = Change("/x", "modified", ("mtime",), entry("/x"), entry("/x"))
    told = Comparison("a", "b", "scan", (change,))
    assert assess(told, None, None, PLAIN).hidden[0].reason == "only times differ"
    assert not assess(told, None, None, BARE).equal


def test_a_rewritten_database_is_noise_only_with_presets() -> None:
    left, right = dpkg("a", "1", {"/a": "1"}), dpkg("a", "1", {"/a": "1"})
    right["/var/lib/dpkg/status"] = str(right["/var/lib/dpkg/status"]) + "Description: more\n"
    assert judged(left, right).equal
    assert [each.change.path for each in judged(left, right, BARE).files] == ["/var/lib/dpkg/status"]


# --- contents --------------------------------------------------------------------------------------------------------


def elf(build_id: bytes, code: bytes = b"code") -> bytes:
    """A 64-bit ELF with three sections: code, its build id, their names."""
    names = b"\0.text\0.note.gnu.build-id\0.shstrtab\0"
    body = code.ljust(16, b"\0") + build_id.ljust(16, b"\0") + names
    table = 64 + len(body)
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 4, 3
    )
    sections = [(0, 0, 0), (1, 64, 16), (7, 80, 16), (26, 96, len(names))]
    rows = [
        struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, offset, size, 0, 0, 0, 0) for name, offset, size in sections
    ]
    return head + body + b"".join(rows)


@pytest.mark.parametrize(
    ("path", "before", "after", "alike"),
    [
        ("/usr/lib/x.so", elf(b"one"), elf(b"two"), True),
        ("/usr/lib/x.so", elf(b"one"), elf(b"one", b"other"), False),
        ("/usr/lib/x.so", b"\x7fELF" + b"\xff" * 90, b"\x7fELF" + b"\xfe" * 90, False),
        ("/x.pyc", b"MAGI" + b"1" * 12 + b"code", b"MAGI" + b"2" * 12 + b"code", True),
        ("/x.pyc", b"MAGI" + b"1" * 12 + b"code", b"MAGI" + b"2" * 12 + b"kode", False),
        ("/x.gz", b"\x1f\x8b\x08\0" + b"1111" + b"rest", b"\x1f\x8b\x08\0" + b"2222" + b"rest", True),
        ("/etc/shadow", b"a:!:19000:0:99999:7:::\n", b"a:!:9:0:99999:7:::\n", True),
        ("/etc/shadow", b"a:!:19000:0:99999:7:::\n", b"a:x:19000:0:99999:7:::\n", False),
        ("/etc/motd", b"a", b"b", False),
    ],
)
def test_contents_past_their_noise(path: str, before: bytes, after: bytes, alike: bool) -> None:
    assert alike_but_for_noise(path, before, after) is alike
    assert judged({path: before}, {path: after}, Policy(TODAY, presets=("content",))).equal is alike


def test_a_text_as_a_bounded_diff() -> None:
    assert text_diff(b"a\nb\nc\n", b"a\nB\nc\n") == ["@@ -1,3 +1,3 @@", " a", "-b", "+B", " c"]
    assert text_diff(None, b"new\n") == ["@@ -0,0 +1 @@", "+new"]
    assert text_diff(b"\0", b"a") is None
    assert text_diff(b"\xff", b"a") is None
    many = text_diff(b"", b"line\n" * 1000, limit=10)
    assert many is not None
    assert len(many) == 11
    assert many[-1] == "… more lines differ"
    assert text_diff(b"", b"x" * 1_000_000) is None


@pytest.mark.parametrize(
    ("glob", "path", "match"),
    [
        ("/var/log/**", "/var/log/a/b", True),
        ("/var/log/**", "/var/log", False),
        ("/var/*.log", "/var/a.log", True),
        ("/var/*.log", "/var/a/b.log", False),
        ("/**/x", "/x", True),
        ("/**/x", "/a/b/x", True),
        ("/a/**/x", "/a/x", True),
        ("/a[bc]", "/ab", True),
        ("/a[!bc]", "/ab", False),
        ("/a[z-a]", "/ab", False),
        ("/a?c", "/a\nc", True),
    ],
)
def test_globs(glob: str, path: str, match: bool) -> None:
    assert matches(glob, path) is match


@pytest.mark.parametrize(
    ("ecosystem", "name", "runtime"),
    [
        *(
            ("dpkg", name, True)
            for name in ("libc6", "python3.11-minimal", "libssl3t64", "libpython3.11-stdlib")
        ),
        *(("dpkg", name, False) for name in ("python3-requests", "libsqlite3-0", "tzdata")),
        *(("rpm", name, True) for name in ("glibc-common", "python3-libs", "openssl-libs")),
        *(("apk", name, True) for name in ("musl", "libcrypto3", "python3")),
        *(("conda", name, True) for name in ("python", "openssl")),
        *(("pip", name, False) for name in ("openssl", "python")),
    ],
)
def test_runtime_packages(ecosystem: str, name: str, runtime: bool) -> None:
    assert is_runtime_package(ecosystem, name) is runtime


@pytest.mark.parametrize(
    ("path", "runtime"),
    [
        ("/usr/local/bin/python3.12", True),
        ("/usr/local/lib/libpython3.12.so.1.0", True),
        ("/usr/local/lib/python3.12/json/decoder.py", True),
        ("/usr/local/lib/python3.12/site-packages/x.py", False),
        ("/lib64/ld-linux-x86-64.so.2", True),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", True),
        ("/usr/bin/pythonista", False),
        ("/usr/lib/libcurl.so.4", False),
    ],
)
def test_runtime_paths(path: str, runtime: bool) -> None:
    assert is_runtime_path(path) is runtime


# --- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("env.DB_PASSWORD", "hunter2", "(not shown)"),
        ("env.PGPASS", "hunter2", "(not shown)"),
        ("env.GITHUB_TOKEN", "hunter2", "(not shown)"),
        ("env.AWS_SECRET_ACCESS_KEY", "hunter2", "(not shown)"),
        ("env.DATABASE_URL", "postgres://me:hunter2@db/x", "postgres://***@db/x"),
        ("env.PATH", "/usr/bin", "/usr/bin"),
        ("env.GPG_KEY", "A035C8C1", "A035C8C1"),
        ("env.AUTHOR", "me", "me"),
        ("env.PASSENGERS", "3", "3"),
        ("user", "token", "token"),
    ],
)
def test_values_of_secrets_are_not_shown(field: str, value: str, shown: str) -> None:
    told = Comparison("a", "b", "layers", config=(ConfigChange(field, None, value),))
    (finding,) = assess(told, None, None, PLAIN).config
    assert (finding.change.before, finding.change.after) == (None, shown)


@pytest.mark.parametrize(
    ("path", "content", "secret"),
    [
        ("/etc/shadow", b"", True),
        ("/root/.ssh/config", b"", True),
        ("/srv/app/.env", b"", True),
        ("/etc/ssl/private/x.key", b"", True),
        ("/etc/x.pem", b"-----BEGIN RSA PRIVATE KEY-----", True),
        ("/etc/passwd", b"root", False),
        ("/etc/keyboard", b"", False),
    ],
)
def test_contents_of_secrets_are_not_shown(path: str, content: bytes, secret: bool) -> None:
    assert is_secret_file(path, content) is secret
