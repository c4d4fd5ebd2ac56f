"""What the ledger remembers, subject by subject."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest

from pytest_envpar import userfiles
from pytest_envpar.errors import UsageError
from pytest_envpar.ledger import (
    CHUNK_BYTES,
    MAX_BYTES,
    CheckpointRecord,
    DamagedError,
    ImageRecord,
    LayerRecord,
    Ledger,
    OutcomeRecord,
    RunRecord,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ID = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "sub" / "ledger.sqlite3") as made:
        yield made
        assert made.problems == ()


def _elsewhere(ledger: Ledger, key: str) -> bytes | None:
    """What another reader of the file gets."""
    with Ledger(ledger.path) as other:
        return other.manifests.get(key, "files", 1)


@contextlib.contextmanager
def _raw(ledger: Ledger) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(ledger.path)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = ON")
        yield connection


def _layer(number: int, size: int | None = 10, instruction: str = "") -> LayerRecord:
    return LayerRecord(f"sha256:{number:064x}", size, instruction)


def _run(stage: str = "qa", project: str = "/p", image: str = ID, status: int = 0) -> RunRecord:
    return RunRecord(project, stage, image, "docker 20.10", 1.0, 2.0, status, {"passed": 1})


# --- images ----------------------------------------------------------------------------------------------------


def test_an_image_comes_back_as_it_was(ledger: Ledger) -> None:
    layers = (_layer(1, 5, "FROM scratch"), _layer(2, None), _layer(1))
    image = ImageRecord(ID, layers, "linux/amd64", ("a:1",), ("a@x",), {"env": {"A": "é\ud800"}}, "2026", 7)
    assert ledger.images.get(ID) is None
    assert ledger.images.record(image)
    with Ledger(ledger.path) as other:
        found = other.images.get(ID)
    assert found is not None
    assert found.seen == pytest.approx(time.time(), abs=60)
    # The same layer twice has one size and one instruction: the later one, and what only the earlier one says.
    once = LayerRecord(layers[0].diff_id, 10, "FROM scratch")
    assert found.layers == (once, layers[1], once)
    assert (found.platform, found.names, found.digests) == ("linux/amd64", ("a:1",), ("a@x",))
    assert (found.config, found.created, found.size_bytes) == ({"env": {"A": "é\ud800"}}, "2026", 7)


def test_what_is_known_of_an_image_stays(ledger: Ledger) -> None:
    ledger.images.record(
        ImageRecord(ID, (_layer(1, 5, "RUN x"),), "p", ("a:1",), ("d1",), created="2026", size_bytes=7)
    )
    ledger.images.record(ImageRecord(ID, (_layer(1, None),), "p", ("a:2",)))
    found = ledger.images.get(ID)
    assert found is not None
    assert found.names == ("a:2", "a:1")
    assert found.digests == ("d1",)
    assert found.layers == (_layer(1, 5, "RUN x"),)
    assert (found.created, found.size_bytes) == ("2026", 7)


def test_images_are_found_by_any_of_their_names(ledger: Ledger) -> None:
    ledger.images.record(ImageRecord(ID, (_layer(1),), names=("a:1", "moved:1"), digests=("a@sha256:x",)))
    ledger.images.record(ImageRecord(OTHER, (_layer(1), _layer(2)), names=("moved:1",)))
    for text in (ID, "a" * 12, "sha256:" + "a" * 20, "a:1", "a@sha256:x"):
        found = ledger.images.find(text)
        assert found is not None, text
        assert found.id == ID, text
    moved = ledger.images.find("moved:1")
    assert moved is not None
    assert moved.id == OTHER
    for text in ("a" * 11, "a", "*", "sha256:", "x:1", ""):
        assert ledger.images.find(text) is None, text
    assert [image.id for image in ledger.images.seen()] == [OTHER, ID]
    assert [image.id for image in ledger.images.seen(1)] == [OTHER]
    assert ledger.images.layers([_layer(1).diff_id, "absent"]) == {_layer(1).diff_id: _layer(1)}


# --- manifests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 20 * CHUNK_BYTES + 7])
def test_bytes_come_back_as_they_were(size: int, ledger: Ledger) -> None:
    data = random.Random(size).randbytes(size)
    assert ledger.manifests.get("k", "files", 1) is None
    assert ledger.manifests.stream("k", "files", 1) is None
    assert ledger.manifests.put("k", "files", 1, data)
    assert ledger.manifests.get("k", "files", 1) == data
    pieces = ledger.manifests.stream("k", "files", 1)
    assert pieces is not None
    read = list(pieces)
    assert b"".join(read) == data
    assert all(len(piece) <= CHUNK_BYTES for piece in read)

    odd = (data[start : start + 300_007] for start in range(0, len(data), 300_007))
    assert ledger.manifests.put("pieces", "files", 1, odd)
    assert _elsewhere(ledger, "pieces") == data


def test_key_kind_and_version_tell_manifests_apart(ledger: Ledger) -> None:
    manifests = ledger.manifests
    manifests.put("a", "files", 1, b"1")
    manifests.put("a", "files", 2, b"2")
    manifests.put("a", "stat", 1, b"3")
    ledger.packages.put("a", 1, b"4")
    manifests.put("container:\ud800", "files", 1, b"5")
    assert manifests.get_many(["a", "b", "a", "container:\ud800"], "files", 1) == {
        "a": b"1",
        "container:\ud800": b"5",
    }
    assert manifests.has(["a", "b"], "files", 2) == {"a"}
    assert manifests.get("a", "stat", 1) == b"3"
    assert ledger.packages.get("a", 1) == b"4"
    assert ledger.packages.get_many(["a", "b"], 1) == {"a": b"4"}
    manifests.put("a", "files", 1, b"new")
    assert manifests.get("a", "files", 1) == b"new"
    manifests.remove(["a"], "files")
    assert manifests.get("a", "files", 1) is None
    assert manifests.get("a", "files", 2) is None
    assert manifests.get("a", "stat", 1) == b"3"


def test_a_thousand_keys_at_once(ledger: Ledger) -> None:
    for number in range(3):
        ledger.manifests.put(f"k{number * 400}", "files", 1, b"%d" % number)
    found = ledger.manifests.get_many([f"k{number}" for number in range(1200)], "files", 1)
    assert found == {"k0": b"0", "k400": b"1", "k800": b"2"}


def test_a_stream_reads_what_was_there_when_it_began(ledger: Ledger) -> None:
    old, new = b"o" * (3 * CHUNK_BYTES), b"n" * (3 * CHUNK_BYTES)
    ledger.manifests.put("k", "files", 1, old)
    pieces = ledger.manifests.stream("k", "files", 1)
    assert pieces is not None
    first = next(pieces)
    with Ledger(ledger.path) as other:
        assert other.manifests.put("k", "files", 1, new)
        assert other.manifests.get("k", "files", 1) == new
    assert first + b"".join(pieces) == old
    assert ledger.manifests.get("k", "files", 1) == new


def test_what_is_not_finished_is_not_seen(ledger: Ledger) -> None:
    ledger.manifests.put("k", "files", 1, b"old")

    def pieces() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * CHUNK_BYTES
            assert _elsewhere(ledger, "k") == b"old"
        raise RuntimeError("the scan failed")

    with pytest.raises(RuntimeError, match="the scan failed"):
        ledger.manifests.put("k", "files", 1, pieces())
    assert ledger.manifests.get("k", "files", 1) == b"old"
    with _raw(ledger) as raw:
        assert raw.execute("SELECT count(*) FROM manifest WHERE NOT complete").fetchone() == (1,)
        raw.execute("UPDATE manifest SET used = 0 WHERE NOT complete")
    ledger.manifests.put("other", "files", 1, b"x")
    with _raw(ledger) as raw:
        assert raw.execute("SELECT count(*) FROM manifest WHERE NOT complete").fetchone() == (0,)
        assert raw.execute("SELECT count(*) FROM chunk").fetchone() == (2,)


@pytest.mark.parametrize(
    "change", ["UPDATE chunk SET data = zeroblob(length(data))", "DELETE FROM chunk WHERE position = 1"]
)
def test_a_damaged_manifest_is_as_good_as_none(change: str, ledger: Ledger) -> None:
    data = b"d" * (2 * CHUNK_BYTES)
    for read in ("get", "stream"):
        ledger.manifests.put("k", "files", 1, data)
        ledger.manifests.put("fine", "files", 1, b"")
        with _raw(ledger) as raw:
            raw.execute(change)
        if read == "get":
            assert ledger.manifests.get_many(["k", "fine"], "files", 1) == {"fine": b""}
        else:
            pieces = ledger.manifests.stream("k", "files", 1)
            assert pieces is not None
            with pytest.raises(DamagedError, match="the manifest of k is damaged"):
                list(pieces)
        assert ledger.manifests.has(["k"], "files", 1) == frozenset()


# --- checkpoints -----------------------------------------------------------------------------------------------


def test_checkpoints_and_where_they_come_from(ledger: Ledger) -> None:
    checkpoints = ledger.checkpoints
    first = CheckpointRecord("/p", "installed", "sha256:1", "sha256:0", 1.0)
    second = CheckpointRecord("/p", "migrated", "sha256:2", "sha256:1", 2.0)
    for each in (second, first, CheckpointRecord("/q", "installed", "sha256:9", "sha256:0", 3.0)):
        assert checkpoints.record(each)
    assert checkpoints.get("/p", "migrated") == second
    assert checkpoints.get("/p", "absent") is None
    assert checkpoints.of_project("/p") == (first, second)
    assert checkpoints.lineage("sha256:2") == (second, first)
    assert checkpoints.lineage("sha256:0") == ()
    checkpoints.record(CheckpointRecord("/p", "migrated", "sha256:3", "sha256:3"))
    assert [each.image_id for each in checkpoints.of_project("/p")] == ["sha256:1", "sha256:3"]
    assert len(checkpoints.lineage("sha256:3")) == 1
    checkpoints.remove("/p", "migrated")
    assert checkpoints.of_project("/p") == (first,)


# --- runs ------------------------------------------------------------------------------------------------------


def test_runs_of_a_project(ledger: Ledger) -> None:
    ids = [ledger.runs.record(_run(stage)) for stage in ("qa", "dev", "qa")]
    ledger.runs.record(_run(project="/other"))
    assert [run.id for run in ledger.runs.of_project("/p")] == ids[::-1]
    assert [run.id for run in ledger.runs.of_project("/p", stage="qa")] == [ids[2], ids[0]]
    assert [run.id for run in ledger.runs.of_project("/p", limit=1)] == [ids[2]]
    (newest,) = ledger.runs.of_project("/p", limit=1)
    assert newest.counts == {"passed": 1}
    assert ledger.runs.of_project("/absent") == ()


def test_outcomes_of_a_test_and_when_it_was_green(ledger: Ledger) -> None:
    runs = ledger.runs
    green = runs.record(
        _run(), [OutcomeRecord("t.py::a", "passed", 0.5, "container:1"), OutcomeRecord("t.py::b", "failed")]
    )
    runs.record(_run("dev"), [OutcomeRecord("t.py::b", "passed")])
    red = runs.record(_run(status=1), [OutcomeRecord("t.py::a", "failed", 0.25)])
    assert green is not None
    assert [each.nodeid for each in runs.outcomes(green)] == ["t.py::a", "t.py::b"]
    told = runs.of_test("/p", "t.py::a")
    assert [(run.id, each.outcome, each.duration_s) for run, each in told] == [
        (red, "failed", 0.25),
        (green, "passed", 0.5),
    ]
    last = runs.last_green("/p", "qa", "t.py::a")
    assert last is not None
    assert (last[0].id, last[0].image_id, last[1].manifest_key) == (green, ID, "container:1")
    assert runs.last_green("/p", "qa", "t.py::b") is None
    assert runs.last_green("/p", "dev", "t.py::b") is not None
    assert runs.last_green("/q", "dev", "t.py::b") is None
    assert runs.of_test("/p", "t.py::b", stage="dev", limit=1)[0][0].stage == "dev"


def test_a_run_lends_its_manifest_to_its_outcomes(ledger: Ledger) -> None:
    run = RunRecord("/p", "qa", ID, "e", 1.0, 2.0, 0, manifest_key="container:run")
    ledger.runs.record(run, [OutcomeRecord("a", "passed"), OutcomeRecord("b", "passed", 0.0, "container:b")])
    (_, outcome), *_ = ledger.runs.of_test("/p", "a")
    assert outcome.manifest_key == "container:run"
    (_, outcome), *_ = ledger.runs.of_test("/p", "b")
    assert outcome.manifest_key == "container:b"


def test_names_that_are_no_utf8_and_a_test_that_is_told_twice(ledger: Ledger) -> None:
    name = "t.py::a[\ud800\0é]"
    assert (
        ledger.runs.record(_run(), [OutcomeRecord(name, "passed"), OutcomeRecord(name, "failed")]) is not None
    )
    ((_, outcome),) = ledger.runs.of_test("/p", name)
    assert (outcome.nodeid, outcome.outcome) == ("t.py::a[\\ud800\0é]", "failed")


# --- where it is -----------------------------------------------------------------------------------------------


def test_where_the_ledger_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    usual = {"XDG_CACHE_HOME": "/c"}
    assert str(userfiles.ledger_path(usual)) == "/c/pytest-envpar/ledger.sqlite3"
    assert str(userfiles.ledger_path({**usual, "ENVPAR_LEDGER": ""})) == "/c/pytest-envpar/ledger.sqlite3"
    assert userfiles.ledger_path({"ENVPAR_LEDGER": "here.db"}) == tmp_path / "here.db"
    assert userfiles.open_ledger(usual).room.max_bytes == MAX_BYTES
    with userfiles.open_ledger({"ENVPAR_LEDGER": "x", "ENVPAR_LEDGER_MAX_BYTES": " 4096 "}) as opened:
        assert opened.room.max_bytes == 4096
    assert not (tmp_path / "x").exists()
    for wrong in ("1G", "-1", "1.5", "²"):
        with pytest.raises(UsageError, match="is not a number of bytes"):
            userfiles.open_ledger({**usual, "ENVPAR_LEDGER_MAX_BYTES": wrong})
