"""The fingerprint of an image's files."""

from __future__ import annotations

import dataclasses

from pytest_envpar.drift import manifest
from pytest_envpar.drift.fingerprint import of_stack
from pytest_envpar.drift.layers import Stack
from pytest_envpar.drift.model import Entry
from pytest_envpar.drift.records import record
from pytest_envpar.images.lockentry import difference
from pytest_envpar.images.lockfile import Entry as Locked

ROOT = Entry("/", "directory", 0o755)
ETC = Entry("/etc", "directory", 0o755)
CONF = Entry("/etc/app.conf", "file", 0o644, size=1, digest="a" * 64, mtime_ns=5)
TREE = (ROOT, ETC, CONF)


def mark(*layers: tuple[Entry, ...]) -> str | None:
    made = [
        manifest.write(map(record, entries), layer=number > 0 or len(layers) > 1)
        for number, entries in enumerate(layers)
    ]
    return of_stack(Stack(made))


def test_layers_and_a_whole_tree_have_the_same() -> None:
    whole = mark(TREE)
    assert whole is not None
    assert whole.startswith("sha256:")
    old = dataclasses.replace(CONF, digest="b" * 64)
    assert mark((ROOT, ETC, old), (CONF,)) == whole
    assert mark((ROOT, ETC, old)) != whole


def test_times_noise_and_what_engines_write_do_not_count() -> None:
    later = dataclasses.replace(CONF, mtime_ns=6)
    others = (Entry("/etc/hosts", "file", 0o644), Entry("/etc/machine-id", "file", 0o444))
    assert mark((ROOT, ETC, later, *others)) == mark(TREE)


def test_folders_that_engines_make_do_not_count_unless_they_hold_or_are_something() -> None:
    app = (Entry("/app", "directory", 0o755), Entry("/app/f", "file", 0o644, size=1, digest="a" * 64))
    run, lock = Entry("/run", "directory", 0o755), Entry("/run/lock", "directory", 0o755)
    noise = Entry("/etc/machine-id", "file", 0o444)
    bare = mark((ROOT, *app))
    assert mark((ROOT, *app, ETC, run)) == bare
    assert mark((ROOT, *app, ETC, Entry("/etc/hosts", "file", 0o644), noise, run)) == bare
    assert mark((ROOT, *app), (ROOT, ETC)) == bare
    others = (
        (ROOT, *app, CONF),
        (ROOT, *app, ETC, CONF),
        (ROOT, *app, dataclasses.replace(ETC, mode=0o700)),
        (ROOT, *app, dataclasses.replace(ETC, uid=1)),
        (ROOT, *app, run, lock),
        (ROOT, *app, lock),
        (ROOT, *app, Entry("/srv", "directory", 0o755)),
    )
    assert len({bare, *map(mark, others)}) == 1 + len(others)


def test_every_field_counts() -> None:
    other = (
        dataclasses.replace(CONF, mode=0o600),
        dataclasses.replace(CONF, uid=1),
        dataclasses.replace(CONF, size=2),
        dataclasses.replace(CONF, path="/etc/app.conf\udcff"),
    )
    assert len({mark(TREE), *(mark((ROOT, ETC, each)) for each in other)}) == 5


def test_a_rebuild_says_whether_its_files_are_the_same() -> None:
    old = Locked(None, "Dockerfile", None, "sha256:1", "linux/amd64", manifest="sha256:a", layers=("x", "y"))
    new = dataclasses.replace(old, image_id="sha256:2", layers=("x", "z"))
    assert difference(old, new).endswith("1 of 2 layers differ, the same files")
    assert difference(old, dataclasses.replace(new, manifest="sha256:b")).endswith("differ, other files")
    assert difference(old, dataclasses.replace(new, manifest=None)).endswith("1 of 2 layers differ")
