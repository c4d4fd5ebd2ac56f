"""The lock file's format: stable bytes, strict reading with the line of a mistake, and writing that loses nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import stat
import threading
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_envpar.errors import LockError
from pytest_envpar.images import lockfile
from pytest_envpar.images.lockfile import Entry, Lock, exclusive, parse, read, render, write

if TYPE_CHECKING:
    from pathlib import Path


def sha(sign: str) -> str:
    return "sha256:" + sign * 64


QA = Entry(
    reference="python:3.12-slim",
    build=None,
    digest=sha("1"),
    image_id=sha("2"),
    platform="linux/amd64",
    layers=(sha("a"), sha("b")),
)
BUILT = Entry(
    reference=None,
    build="docker/qa.Dockerfile",
    digest=None,
    image_id=sha("3"),
    platform="linux/amd64",
    inputs=sha("4"),
    setup=sha("5"),
    manifest=sha("6"),
    packages=sha("7"),
    layers=(sha("a"),),
    base={"debian:12": sha("8"), "alpine": f"local {sha('9')}"},
)
BOTH = Lock({"qa": QA, "built": BUILT})
TEXT = f"""\
# The exact images of the stages, written by pytest-envpar. Commit it, and do not edit it: `envpar lock` completes it,
# `envpar upgrade STAGE` moves a stage to what its tag or Dockerfile gives today.
version = 1

[stages.built]
build = "docker/qa.Dockerfile"
image-id = "{sha("3")}"
platform = "linux/amd64"
inputs = "{sha("4")}"
setup = "{sha("5")}"
manifest = "{sha("6")}"
packages = "{sha("7")}"
layers = [
  "{sha("a")}",
]

[stages.built.base]
"alpine" = "local {sha("9")}"
"debian:12" = "{sha("8")}"

[stages.qa]
reference = "python:3.12-slim"
digest = "{sha("1")}"
image-id = "{sha("2")}"
platform = "linux/amd64"
layers = [
  "{sha("a")}",
  "{sha("b")}",
]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "envpar.lock"


def refused(text: str | bytes, path: Path) -> LockError:
    with pytest.raises(LockError) as caught:
        parse(text.encode() if isinstance(text, str) else text, path)
    assert caught.value.hint
    return caught.value


def test_the_bytes_are_these(path: Path) -> None:
    assert render(BOTH) == TEXT
    assert parse(TEXT.encode(), path) == BOTH


def test_the_order_of_stages_and_bases_does_not_matter() -> None:
    turned = dataclasses.replace(BUILT, base=dict(reversed(list(BUILT.base.items()))))
    assert render(Lock({"built": turned, "qa": QA})) == TEXT


def test_a_changed_digest_is_a_changed_line() -> None:
    after = render(Lock({"qa": dataclasses.replace(QA, digest=sha("f")), "built": BUILT}))
    assert sum(a != b for a, b in zip(TEXT.splitlines(), after.splitlines(), strict=True)) == 1


_HASH = st.binary(min_size=32, max_size=32).map(lambda data: f"sha256:{data.hex()}")
_TEXT = st.text(min_size=1, max_size=30).map(lambda text: text.encode("utf-8", "replace").decode())
_ENTRY = st.builds(
    Entry,
    reference=st.none(),
    build=st.none(),
    digest=st.none() | _HASH,
    image_id=_HASH,
    platform=_TEXT,
    inputs=st.none() | _HASH,
    setup=st.none() | _HASH,
    manifest=st.none() | _HASH,
    packages=st.none() | _HASH,
    layers=st.lists(_HASH, max_size=4).map(tuple),
    base=st.dictionaries(_TEXT, _HASH, max_size=3),
).flatmap(
    lambda entry: st.tuples(st.sampled_from(["reference", "build"]), _TEXT).map(
        lambda named: dataclasses.replace(entry, **{named[0]: named[1]})  # type: ignore[arg-type]
    )
)


@settings(deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), _ENTRY, max_size=4))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, stages: dict[str, Entry]) -> None:
    lock = Lock(stages)
    text = render(lock)
    again = parse(text.encode(), tmp_path_factory.getbasetemp() / "l")
    assert again == lock
    assert render(again) == text


def test_a_name_that_is_not_unicode_is_written_as_text(path: Path) -> None:
    odd = dataclasses.replace(BUILT, build=os.fsdecode(b"docker/\xff.Dockerfile"))
    again = parse(render(Lock({"qa": odd})).encode(), path)
    assert again.stages["qa"].build == "docker/\\udcff.Dockerfile"


@settings(deadline=None, max_examples=200)
@given(st.integers(0, len(TEXT)), st.text(max_size=6), st.integers(0, 40))
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, put: str, drop: int
) -> None:
    damaged = (TEXT[:at] + put + TEXT[at + drop :]).encode("utf-8", "replace")
    # Any other error would be a traceback in front of a user.
    with contextlib.suppress(LockError):
        parse(damaged, tmp_path_factory.getbasetemp() / "l")


CONFLICT = TEXT.replace(
    f'digest = "{sha("1")}"\n',
    f'<<<<<<< HEAD\ndigest = "{sha("1")}"\n=======\ndigest = "{sha("c")}"\n>>>>>>> topic\n',
)


def test_a_merge_conflict_is_named_with_its_line(path: Path) -> None:
    error = refused(CONFLICT, path)
    line = CONFLICT.splitlines().index("<<<<<<< HEAD") + 1
    assert error.message == f"{path}:{line}: unresolved merge conflict (<<<<<<<)"
    assert "envpar lock" in str(error.hint)


@pytest.mark.parametrize("left", ["=======", "||||||| 1234", ">>>>>>> topic"])
def test_what_a_merge_left_behind_is_named(left: str, path: Path) -> None:
    assert (
        ":4: unresolved merge conflict"
        in refused(TEXT.replace("\n\n[stages.built]", f"\n{left}\n"), path).message
    )


def test_a_newer_version_is_refused_whatever_else_it_has(path: Path) -> None:
    error = refused(TEXT.replace("version = 1", 'version = 2\nsigned = "yes"'), path)
    assert error.message == f"{path}: written by a newer pytest-envpar (lock version 2, this one reads 1)"
    assert error.hint == "upgrade pytest-envpar; nothing was changed"


def without(line: str) -> str:
    kept = [each for each in TEXT.splitlines() if each != line]
    assert len(kept) < len(TEXT.splitlines())
    return "\n".join(kept)


@pytest.mark.parametrize(
    ("text", "line", "shown"),
    [
        (without("version = 1"), 1, "expected 'version = 1', found missing"),
        (TEXT.replace("version = 1", 'version = "1"'), 3, "expected 'version = 1', found '1'"),
        (TEXT.replace("version = 1", "version = true"), 3, "found True"),
        (TEXT.replace("version = 1", "version = 0"), 3, "found 0"),
        (TEXT.replace("version = 1", "version = 1\nsigned = 2"), 4, "unknown key 'signed'"),
        ("version = 1\nstages = 3", 2, "'stages' is 3, expected a table"),
        ("version = 1\n[stages]\nqa = 3", 3, "stage 'qa' is 3, expected a table"),
        ("version = 1\n[stages.QA]\n", 2, "'QA' is no name of a stage"),
        (TEXT.replace("[stages.qa]", "[stages.qa"), 21, "not TOML: "),
        (TEXT.replace("platform = ", "platfrom = ", 1), 5, "stage 'built' has no 'platform'"),
        (TEXT + 'tag = "x"\n', 30, "stage 'qa': unknown key 'tag'"),
        (TEXT.replace(f'digest = "{sha("1")}"', "digest = 5"), 23, "stage 'qa': digest is 5, expected text"),
        (TEXT.replace(sha("1"), "sha256:1234"), 23, "digest is 'sha256:1234', expected 'sha256:' and 64"),
        (TEXT.replace(sha("2"), sha("2").upper()), 24, "expected 'sha256:' and 64 lower-case hexadecimal"),
        (TEXT.replace(f'  "{sha("b")}",', "  7,"), 28, "the layer 7 is no diff ID"),
        (TEXT.replace(sha("b"), "b"), 28, "the layer 'b' is no diff ID"),
        ("version = 1\n[stages.qa]\nimage-id = 'x'\n", 3, "image-id is 'x'"),
        (TEXT.replace(sha("8"), "8"), 19, "the base 'debian:12' is '8', which is no digest"),
        (TEXT.replace('reference = "python:3.12-slim"\n', ""), 21, "exactly one of 'reference' and 'build'"),
        (TEXT.replace('reference = "py', 'build = "b"\nreference = "py'), 21, "exactly one of"),
        (TEXT.replace("[stages.qa]", "[stages.built]"), 21, "not TOML: "),
        ("version = 1\n" + "a = " + "[" * 5000, 2, "not TOML: "),
        ("", 1, "found missing"),
    ],
)
def test_a_hand_edit_is_refused_with_its_line(text: str, line: int, shown: str, path: Path) -> None:
    error = refused(text, path)
    message = error.message.replace(f"{path}:1: not TOML: nested", f"{path}:2: not TOML: nested")
    assert message.startswith(f"{path}:{line}: "), error.message
    assert shown in message
    assert "envpar lock" in str(error.hint)


def test_bytes_that_are_no_text(path: Path) -> None:
    assert refused(b"version = 1\n# \xff\n", path).message == f"{path}:2: byte 0xff is not UTF-8"


def test_no_file_is_no_lock(path: Path) -> None:
    assert read(path) is None
    assert read(path / "below" / "l") is None


def test_a_folder_in_its_place(path: Path) -> None:
    path.mkdir()
    with pytest.raises(LockError, match="cannot be read: Is a directory"):
        read(path)


def test_writing_what_is_there_already_touches_nothing(path: Path) -> None:
    assert write(path, BOTH)
    before = path.stat()
    assert not write(path, BOTH)
    assert path.stat().st_ino == before.st_ino
    assert read(path) == BOTH


def test_mode_and_links_are_kept(path: Path, tmp_path: Path) -> None:
    real = tmp_path / "real" / "the.lock"
    real.parent.mkdir()
    real.write_text("", encoding="utf-8")
    real.chmod(0o640)
    path.symlink_to(real)
    write(path, BOTH)
    assert path.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert read(real) == BOTH


def test_a_new_file_is_as_readable_as_any_other(path: Path, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write(path, BOTH)
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    write(tmp_path / "locks" / "deep" / "l", BOTH)


@pytest.mark.parametrize("fails", ["fsync", "replace", "fchmod"])
def test_a_full_disk_leaves_the_old_file_whole(
    fails: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, Lock({"qa": QA}))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(LockError) as caught:
        write(path, BOTH)
    monkeypatch.undo()
    assert caught.value.message == f"{path}: cannot be written: No space left on device"
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["envpar.lock"]


def test_a_folder_that_cannot_be_written_to(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = path.parent / "file"
    file.touch()
    with pytest.raises(LockError, match="cannot be written"):
        write(file / "l", BOTH)
    with pytest.raises(LockError, match="its folder cannot be used"), exclusive(file / "l"):
        pass


def test_one_writer_at_a_time(path: Path) -> None:
    rounds, writers = 15, 4

    def add(writer: int) -> None:
        for number in range(rounds):
            with exclusive(path):
                now = read(path)
                stages = dict(now.stages) if now is not None else {}
                write(path, Lock(MappingProxyType({**stages, f"s{writer}_{number}": QA})))

    threads = [threading.Thread(target=add, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = read(path)
    assert result is not None
    assert len(result.stages) == rounds * writers
    assert [each.name for each in path.parent.iterdir()] == ["envpar.lock"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockfile, "_WAIT_S", 0.0)


@pytest.mark.usefixtures("impatient")
def test_a_writer_that_does_not_let_go_is_told(path: Path) -> None:
    with (
        exclusive(path),
        pytest.raises(LockError, match="another process has held its folder"),
        exclusive(path),
    ):
        pass
    with exclusive(path):
        pass


def test_a_file_system_that_locks_no_folders(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with exclusive(path):
        assert write(path, BOTH)
