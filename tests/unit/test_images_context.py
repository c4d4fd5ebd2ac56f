"""Build contexts: what is sent, in which bytes, and under which hash."""

from __future__ import annotations

import io
import os
import shutil
import socket
import tarfile
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.images.context import read_context
from pytest_envpar.images.ignore import IgnoreRules
from pytest_envpar.images.tarstream import tar

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def context(tmp_path: Path) -> Path:
    root = tmp_path / "context"
    (root / "src").mkdir(parents=True)
    (root / "src/a.py").write_text("a")
    (root / "src/b.log").write_text("b")
    (root / "node_modules/x").mkdir(parents=True)
    (root / "node_modules/x/keep.js").write_text("js")
    (root / "Dockerfile").write_text("FROM base\n")
    return root


def names(context: Path, dockerfile: Path | None = None) -> list[str]:
    return [entry.name for entry in read_context(context, dockerfile or context / "Dockerfile").entries]


def digest(context: Path) -> str:
    return read_context(context, context / "Dockerfile").digest()


@pytest.mark.parametrize(
    ("text", "path", "ignored"),
    [
        ("*.log", "a.log", True),
        ("*.log", "src/a.log", False),
        ("**/*.log", "a.log", True),
        ("**/*.log", "src/deep/a.log", True),
        ("src", "src/deep/a", True),
        ("/src/", "src/a", True),
        ("src/*", "src/a/b", True),
        ("src/**", "src/a/b", True),
        ("src/**", "src", False),
        ("./src/../src", "src", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[ab].txt", "b.txt", True),
        ("[^ab].txt", "b.txt", False),
        ("\\*.txt", "*.txt", True),
        ("\\*.txt", "a.txt", False),
        ("# *\n", "x", False),
        ("*\n!keep", "keep", False),
        ("*\n!keep", "keep/inside", False),
        ("*\n!keep\nkeep/not", "keep/not", True),
        ("!keep\n*", "keep", True),
        ("  spaced  ", "spaced", True),
        ("a.b", "axb", False),
        ("**", "any/thing", True),
        ("", "x", False),
        (".", "x", False),
    ],
)
def test_ignore_rules(text: str, path: str, ignored: bool) -> None:
    rules = IgnoreRules.parse(text)
    found, at = 0, path.find("/")
    while at != -1:
        found = rules.matches(path[:at], found)
        at = path.find("/", at + 1)
    assert rules.ignored(rules.matches(path, found)) is ignored


def test_everything_is_sent_without_an_ignore_file(context: Path) -> None:
    assert names(context) == [
        *("Dockerfile", "node_modules", "node_modules/x", "node_modules/x/keep.js"),
        *("src", "src/a.py", "src/b.log"),
    ]


def test_ignored_files_are_not_sent_and_taken_back_ones_come_with_their_folders(context: Path) -> None:
    (context / ".dockerignore").write_text(
        "node_modules\n**/*.log\n!node_modules/x/keep.js\nDockerfile\n.dockerignore\n"
    )
    assert names(context) == [
        *(".dockerignore", "Dockerfile", "node_modules", "node_modules/x", "node_modules/x/keep.js"),
        *("src", "src/a.py"),
    ]


def test_the_dockerfile_comes_even_from_an_ignored_folder(context: Path) -> None:
    (context / "docker").mkdir()
    (context / "docker/qa").write_text("FROM base\n")
    (context / "docker/other").write_text("")
    (context / ".dockerignore").write_text("docker\n")
    sent = names(context, context / "docker/qa")
    assert "docker/qa" in sent
    assert "docker/other" not in sent


def test_a_dockerfile_has_its_own_ignore_file(context: Path) -> None:
    (context / ".dockerignore").write_text("src\n")
    (context / "Dockerfile.dockerignore").write_text("node_modules\n")
    sent = names(context)
    assert "src/a.py" in sent
    assert "node_modules" not in sent


def test_a_dockerfile_outside_the_context_is_added(context: Path, tmp_path: Path) -> None:
    outside = tmp_path / "qa.Dockerfile"
    outside.write_text("FROM other\n")
    read = read_context(context, outside)
    (entry,) = (entry for entry in read.entries if entry.name == read.dockerfile)
    assert entry.data == b"FROM other\n"


def test_links_are_kept_and_sockets_left_out(context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (context / "link").symlink_to("src")
    monkeypatch.chdir(context)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
        read = read_context(context, context / "Dockerfile")
    (link,) = (entry for entry in read.entries if entry.name == "link")
    assert (link.kind, link.target) == ("link", "src")
    assert "sock" not in [entry.name for entry in read.entries]


def test_the_archive_is_the_same_for_the_same_content(context: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(context, copy)
    os.utime(copy / "src/a.py", (1, 1))
    archives = [b"".join(tar(read_context(root, root / "Dockerfile").entries)) for root in (context, copy)]
    assert archives[0] == archives[1]
    assert digest(context) == digest(copy)
    with tarfile.open(fileobj=io.BytesIO(archives[0])) as archive:
        members = archive.getmembers()
        assert archive.extractfile("src/a.py").read() == b"a"  # type: ignore[union-attr]
    assert {(member.uid, member.gid) for member in members} == {(0, 0)}
    assert all(member.mtime > 315_532_800 for member in members), "zip files need 1980 or later"


@pytest.mark.parametrize("change", ["content", "mode", "name", "folder", "link"])
def test_every_change_changes_the_hash(context: Path, change: str) -> None:
    before = digest(context)
    file = context / "src/a.py"
    if change == "content":
        file.write_text("A")
    elif change == "mode":
        file.chmod(0o755)
    elif change == "name":
        file.rename(file.with_name("c.py"))
    elif change == "folder":
        (context / "empty").mkdir()
    else:
        (context / "link").symlink_to("src")
    assert digest(context) != before


def test_an_ignored_file_does_not_change_the_hash(context: Path) -> None:
    (context / ".dockerignore").write_text("src/b.log\n")
    before = digest(context)
    (context / "src/b.log").write_text("other")
    assert digest(context) == before


def test_names_of_any_bytes_and_length_survive(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff" + "é".encode() + b"x" * 150)
    (tmp_path / odd).mkdir()
    (tmp_path / odd / odd).write_bytes(b"1" * 600_000)
    (tmp_path / "Dockerfile").write_text("")
    with tarfile.open(
        fileobj=io.BytesIO(b"".join(tar(read_context(tmp_path, tmp_path / "Dockerfile").entries)))
    ) as a:
        assert a.getmember(f"{odd}/{odd}").size == 600_000


def test_the_lock_file_is_no_part_of_the_context(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n", encoding="utf-8")
    lock = tmp_path / "locks" / "pins.lock"
    lock.parent.mkdir()
    before = read_context(tmp_path, tmp_path / "Dockerfile", (lock,)).digest()
    for name in ("pins.lock", ".pins.lock.x1y2"):
        (lock.parent / name).write_text("version = 1\n", encoding="utf-8")
    assert read_context(tmp_path, tmp_path / "Dockerfile", (lock,)).digest() == before
    assert read_context(tmp_path, tmp_path / "Dockerfile", (tmp_path / "other",)).digest() != before
    (tmp_path / "cache" / "v").mkdir(parents=True)
    (tmp_path / "cache" / "v" / "lastfailed").touch()
    assert read_context(tmp_path, tmp_path / "Dockerfile", (lock, tmp_path / "cache")).digest() == before
    (tmp_path / "cached").touch()
    assert read_context(tmp_path, tmp_path / "Dockerfile", (lock, tmp_path / "cache")).digest() != before
    (tmp_path / "cached").unlink()
    (tmp_path / "pins.lock").write_text("another one\n", encoding="utf-8")
    assert read_context(tmp_path, tmp_path / "Dockerfile", (lock,)).digest() != before
