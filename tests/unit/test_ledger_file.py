"""The file of the ledger: many processes, old versions, damage, and places where nothing can be written."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.ledger import ImageRecord, LayerRecord, Ledger, OutcomeRecord, RunRecord, room
from pytest_envpar.ledger.database import Database
from pytest_envpar.ledger.place import KEPT_BROKEN, file_system, is_network
from pytest_envpar.ledger.schema import APPLICATION_ID, STEPS, VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SOURCE = Path(__file__).parents[2]
VERSIONS = Path(__file__).parent / "ledger_versions"
PATIENT_S = 120.0
MEBIBYTE = 1 << 20
RUN = RunRecord("/p", "qa", "sha256:a", "docker", 1.0, 2.0, 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


def _fill(path: Path, *keys: str, size: int = 10) -> None:
    with Ledger(path) as ledger:
        for key in keys:
            assert ledger.manifests.put(key, "files", 1, key.encode() * size)
        assert ledger.problems == ()


def _get(path: Path, *keys: str) -> dict[str, bytes]:
    with Ledger(path) as ledger:
        found = ledger.manifests.get_many(keys, "files", 1)
        assert ledger.problems == ()
        return found


def _ask(path: Path, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        return raw.execute(statement).fetchall()


def _works(ledger: Ledger) -> bool:
    return ledger.manifests.put("k", "files", 1, b"data") and ledger.manifests.get("k", "files", 1) == b"data"


def _is_off(ledger: Ledger) -> bool:
    """Whether it behaves as an empty ledger that nothing can be written to."""
    return (
        not ledger.usable
        and not ledger.manifests.put("k", "files", 1, b"data")
        and ledger.manifests.get("k", "files", 1) is None
        and ledger.manifests.stream("k", "files", 1) is None
        and ledger.runs.record(RUN, [OutcomeRecord("a", "passed")]) is None
        and ledger.runs.of_project("/p") == ()
        and ledger.images.find("x") is None
        and ledger.room.used_bytes() == 0
    )


# --- one file, many processes ----------------------------------------------------------------------------------

_WRITER = """
import sys
from pathlib import Path
from pytest_envpar.ledger import Ledger, OutcomeRecord, RunRecord
name = sys.argv[2]
with Ledger(Path(sys.argv[1]), busy_s=100) as ledger:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(sys.argv[3])):
        data = f"{name} {number} ".encode() * 20_000
        assert ledger.manifests.put(f"{name}-{number}", "files", 1, data), ledger.problems
        assert ledger.manifests.put("shared", "files", 1, data), ledger.problems
        assert len(set(ledger.manifests.get("shared", "files", 1).split(b" "))) == 3
        run = RunRecord("/p", name, "sha256:a", "docker", 1.0, 2.0, 0)
        assert ledger.runs.record(run, [OutcomeRecord(f"t{i}", "passed") for i in range(50)]), ledger.problems
        print(number, flush=True)
    print(*ledger.problems, file=sys.stderr)
"""


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``start(code, *args)``: a process that has said it is ready and waits for a line."""
    made: list[subprocess.Popen[str]] = []

    def start(code: str, *args: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
        made.append(process)
        return process

    yield start
    for process in made:
        process.kill()
        process.communicate()


def _go(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def test_processes_that_write_at_the_same_time(
    path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    count, rounds = 4, 8
    writers = [start(_WRITER, path, f"w{number}", rounds) for number in range(count)]
    _go(writers)
    for writer in writers:
        _, err = writer.communicate(timeout=PATIENT_S)
        assert (writer.returncode, err.strip()) == (0, "")
    with Ledger(path) as ledger:
        for number in range(count):
            assert len(ledger.runs.of_project("/p", stage=f"w{number}", limit=100)) == rounds
            keys = [f"w{number}-{each}" for each in range(rounds)]
            assert ledger.manifests.has(keys, "files", 1) == set(keys)
        assert len(ledger.runs.of_test("/p", "t0", limit=1000)) == count * rounds
    assert _ask(path, "PRAGMA integrity_check") == [("ok",)]
    assert sorted(each.name for each in path.parent.iterdir()) == ["ledger.sqlite3", "ledger.sqlite3.guard"]


def test_a_process_that_is_killed_while_it_writes(
    path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    writer = start(_WRITER, path, "w", 1_000_000)
    _go([writer])
    assert writer.stdout is not None
    told = [int(writer.stdout.readline()) for _ in range(5)]
    writer.send_signal(signal.SIGKILL)
    told += [int(line) for line in writer.stdout.read().split()]
    writer.wait(PATIENT_S)
    assert sorted(_get(path, *(f"w-{number}" for number in told))) == sorted(f"w-{number}" for number in told)
    with Ledger(path) as ledger:
        assert _works(ledger)
    assert _ask(path, "PRAGMA integrity_check") == [("ok",)]


def test_processes_that_find_it_broken_at_the_same_time(
    path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    path.write_bytes(b"no database" * 1000)
    writers = [start(_WRITER, path, f"w{number}", 1) for number in range(4)]
    _go(writers)
    told = []
    for writer in writers:
        _, err = writer.communicate(timeout=PATIENT_S)
        assert writer.returncode == 0, err
        told.append(err)
    assert sum("set aside as ledger.sqlite3.broken-1" in err for err in told) == 1
    assert [each.name for each in path.parent.glob("*.broken*")] == ["ledger.sqlite3.broken-1"]
    assert len(_get(path, *(f"w{number}-0" for number in range(4)))) == 4


def test_threads_take_turns(path: Path) -> None:
    with Ledger(path) as ledger:
        failed: list[BaseException] = []

        def work(name: str) -> None:
            try:
                for number in range(20):
                    assert ledger.manifests.put(f"{name}{number}", "files", 1, name.encode() * 1000)
                    assert ledger.manifests.get(f"{name}{number}", "files", 1) == name.encode() * 1000
            except BaseException as error:  # noqa: BLE001 - shown by the test
                failed.append(error)

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert ledger.problems == ()


def test_who_waited_in_vain_once_hardly_waits_again(path: Path) -> None:
    _fill(path, "a")
    with contextlib.closing(sqlite3.connect(path)) as other, Ledger(path, busy_s=0.2) as ledger:
        other.execute("BEGIN IMMEDIATE")
        assert not ledger.manifests.put("b", "files", 1, b"x")
        assert "database is locked" in ledger.problems[0]
        assert _ask_timeout(ledger) == 50
        assert ledger.manifests.get("a", "files", 1) == b"a" * 10
        other.execute("ROLLBACK")
        assert _works(ledger)


def _ask_timeout(ledger: Ledger) -> int:
    return ledger._database.read(
        lambda connection: int(connection.execute("PRAGMA busy_timeout").fetchone()[0]), -1
    )


# --- versions --------------------------------------------------------------------------------------------------


def _stored(version: int, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.executescript((VERSIONS / f"v{version}.sql").read_text(encoding="utf-8"))


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_a_ledger_of_every_version_is_read(version: int, path: Path) -> None:
    """Whoever adds a step also stores a file of the version before it."""
    _stored(version, path)
    image = "sha256:" + "a" * 64
    layer = "sha256:" + "1" * 64
    with Ledger(path) as ledger:
        found = ledger.images.find("a:1")
        assert found is not None
        assert (found.id, found.layers[0].instruction, found.layers[1].size_bytes) == (image, "RUN x", None)
        assert ledger.manifests.get(layer, "files", 1) == b"manifest"
        assert ledger.packages.get(layer, 1) == b"packages"
        assert ledger.checkpoints.lineage("sha256:c")[0].parent_id == image
        last = ledger.runs.last_green("/p", "qa", "t.py::a")
        assert last is not None
        assert last[0].image_id == image
        assert _works(ledger)
        assert ledger.problems == ()
    assert _ask(path, "PRAGMA user_version") == [(VERSION,)]


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_a_migrated_ledger_is_as_a_new_one(version: int, path: Path, tmp_path: Path) -> None:
    _stored(version, path)
    new = tmp_path / "new.sqlite3"
    shapes = []
    for each in (path, new):
        _fill(each, "k")
        names = [str(name) for (name,) in _ask(each, "SELECT name FROM sqlite_master ORDER BY name")]
        shapes.append({name: [row[1:] for row in _ask(each, f"PRAGMA table_info({name})")] for name in names})
    assert shapes[0] == shapes[1]
    assert _ask(path, "SELECT name, last FROM node ORDER BY name") == [("t.py::a", 1), ("t.py::b", 1)]


def test_a_step_is_taken_once_and_keeps_what_is_there(path: Path) -> None:
    _fill(path, "a")
    steps = (
        *STEPS,
        ("CREATE TABLE more (x)", "INSERT INTO more VALUES (1)", "ALTER TABLE run ADD COLUMN more"),
    )
    for _ in range(2):
        database = Database(path, steps=steps)
        assert database.read(lambda connection: connection.execute("SELECT * FROM more").fetchall(), []) == [
            (1,)
        ]
        assert database.read(
            lambda connection: connection.execute("SELECT key FROM manifest").fetchall(), []
        ) == [("a",)]
        database.close()
    assert _ask(path, "PRAGMA user_version") == [(VERSION + 1,)]


def test_a_step_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    _fill(path, "a")
    before = _ask(path, "SELECT sql FROM sqlite_master")
    steps = (*STEPS, ("CREATE TABLE more (x)", "CREATE TABLE run (x)"))
    database = Database(path, steps=steps)
    assert not database.usable()
    assert "already exists" in database.problems[0]
    database.close()
    assert _ask(path, "SELECT sql FROM sqlite_master") == before
    assert _get(path, "a")


def test_a_newer_ledger_is_left_alone(path: Path) -> None:
    _fill(path, "k")
    _ask(path, f"PRAGMA user_version = {VERSION + 1}")
    before = path.read_bytes()
    with Ledger(path) as ledger:
        assert _is_off(ledger)
        (problem,) = ledger.problems
        assert problem == (
            f"{path} was written by a newer pytest-envpar (version {VERSION + 1}, this one knows {VERSION}): "
            "nothing is read from it or written to it"
        )
    assert path.read_bytes() == before
    assert list(path.parent.glob("*.broken*")) == []


# --- damage ----------------------------------------------------------------------------------------------------


def _garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(100_000))


def _text(path: Path) -> None:
    path.write_text("hello")


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _head_only(path: Path) -> None:
    os.truncate(path, 50)


def _holes(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(path.stat().st_size - 4096))


def _no_table(path: Path) -> None:
    _ask(path, "DROP TABLE chunk")


def _other_table(path: Path) -> None:
    _ask(path, "DROP TABLE chunk")
    _ask(path, "CREATE TABLE chunk (manifest, position)")


@pytest.mark.parametrize("damage", [_garbage, _text, _truncated, _head_only, _holes, _no_table, _other_table])
def test_a_broken_file_is_set_aside(damage: Callable[[Path], None], path: Path) -> None:
    _fill(path, "k", "l", size=300_000)
    damage(path)
    broken = path.read_bytes()
    with Ledger(path) as ledger:
        ledger.manifests.get_many(("k", "l"), "files", 1)
        assert _works(ledger)
        assert len(ledger.problems) == 1
        assert "set aside as ledger.sqlite3.broken-1 and begun anew" in ledger.problems[0]
    assert (path.parent / "ledger.sqlite3.broken-1").read_bytes() == broken
    assert _get(path, "k") == {"k": b"data"}


def test_an_empty_file_is_a_new_ledger(path: Path) -> None:
    path.touch()
    _fill(path, "k")
    assert _ask(path, "PRAGMA application_id") == [(APPLICATION_ID,)]
    assert _ask(path, "PRAGMA journal_mode") == [("wal",)]


def test_broken_files_do_not_pile_up(path: Path) -> None:
    for number in range(KEPT_BROKEN + 2):
        path.write_text(f"broken {number}")
        os.utime(path, (number, number))
        with Ledger(path) as ledger:
            assert _works(ledger)
    kept = [each.read_text() for each in path.parent.glob("*.broken-?")]
    assert sorted(kept) == [f"broken {number}" for number in range(2, KEPT_BROKEN + 2)]


def test_a_log_of_a_ledger_that_is_gone_is_not_played(path: Path) -> None:
    ledger = Ledger(path)
    assert _works(ledger)
    shutil.copy(f"{path}-wal", f"{path}-kept")
    ledger.close()
    path.unlink()
    Path(f"{path}-kept").rename(f"{path}-wal")
    assert _get(path, "k") == {}


def test_the_database_of_another_program_is_left_alone(path: Path) -> None:
    _ask(path, "CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with Ledger(path) as ledger:
        assert _is_off(ledger)
        assert ledger.problems == (f"{path} is the database of another program; it is left alone",)
    assert path.read_bytes() == before


def test_a_file_that_goes_while_it_is_used(path: Path) -> None:
    with Ledger(path) as ledger:
        assert _works(ledger)
        path.unlink()
        ledger.manifests.put("after", "files", 1, b"x")
        ledger.runs.record(RUN)
    _fill(path, "k")


# --- places ----------------------------------------------------------------------------------------------------


def test_the_null_device_is_no_ledger_and_no_problem() -> None:
    with Ledger(Path(os.devnull)) as ledger:
        assert _is_off(ledger)
        assert ledger.problems == ()


@pytest.mark.parametrize("name", ["/dev/zero", ".", "file/below"])
def test_what_can_be_no_ledger(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Ledger(tmp_path / name) as ledger:
        assert _is_off(ledger)
        assert len(ledger.problems) == 1
        assert str(tmp_path / name) in ledger.problems[0]


def test_a_closed_ledger_is_off(path: Path) -> None:
    with Ledger(path) as ledger:
        assert _works(ledger)
    assert _is_off(ledger)


def test_only_the_user_may_read_it(path: Path) -> None:
    before = os.umask(0)
    try:
        _fill(path, "k")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user can enter."""
    folder = Path(tempfile.mkdtemp(prefix="envpar-ledger-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def _not_root() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_written(open_folder: Path) -> None:
    path = open_folder / "ledger.sqlite3"
    _fill(path, "old")
    before = path.read_bytes()
    path.chmod(0o444)
    open_folder.chmod(0o555)
    try:
        with _not_root(), Ledger(path) as ledger:
            assert not ledger.manifests.put("k", "files", 1, b"data")
            assert ledger.runs.record(RUN) is None
            assert ledger.problems
    finally:
        open_folder.chmod(0o755)
    assert path.read_bytes() == before


def test_a_folder_that_may_not_be_written(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    with _not_root(), Ledger(open_folder / "sub" / "ledger.sqlite3") as ledger:
        assert _is_off(ledger)
        assert "Permission denied" in ledger.problems[0]


_FULL = """
import json, os, resource, sys
from pathlib import Path
from pytest_envpar.ledger import Ledger, OutcomeRecord, RunRecord
path, limit = Path(sys.argv[1]), int(sys.argv[2])
with Ledger(path) as ledger:
    first = ledger.manifests.put("first", "files", 1, b"first")
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    large = ledger.manifests.put("large", "files", 1, os.urandom(8 << 20))
    small = ledger.manifests.get("first", "files", 1) == b"first"
    run = RunRecord("/p", "qa", "sha256:a", "docker", 1.0, 2.0, 0)
    ledger.runs.record(run, [OutcomeRecord(f"tests/test_{i}.py::test", "passed") for i in range(100_000)])
    print(json.dumps([first, large, small, ledger.problems]))
with Ledger(path) as ledger:
    assert ledger.manifests.get("first", "files", 1) == b"first", ledger.problems
    assert ledger.manifests.get("large", "files", 1) is None
"""


def _full(path: Path, limit: int, *before: str) -> None:
    done = subprocess.run(
        [*before, sys.executable, "-c", _FULL, str(path), str(limit)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, large, small, problems = json.loads(done.stdout)
    assert (first, large, small) == (True, False, True)
    assert any("full" in line or "I/O error" in line for line in problems), problems


def test_a_file_that_may_not_grow(path: Path) -> None:
    _full(path, 2 * MEBIBYTE)


def test_a_full_disk(tmp_path: Path) -> None:
    # A mount namespace of its own: nothing is left to be unmounted, and no root is needed where users may have one.
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    mount = f"mount -t tmpfs -o size=3m envpar-test {tmp_path}"
    if shutil.which("unshare") is None or subprocess.run([*own, "sh", "-c", mount], check=False).returncode:
        pytest.skip("a small tmpfs cannot be mounted here")
    _full(tmp_path / "ledger.sqlite3", 0, *own, "sh", "-c", f'{mount} && exec "$@"', "sh")


def test_where_wal_cannot_be_had(path: Path) -> None:
    """SQLite's own way without shared memory stands for such a file system."""
    for expected in ([], [("k",)]):
        database = Database(path, vfs="unix-dotfile")
        assert database.read(
            lambda connection: connection.execute("SELECT key FROM manifest").fetchall(), [("?",)]
        ) == (expected)
        assert (
            database.read(lambda connection: connection.execute("PRAGMA journal_mode").fetchone()[0], "")
            == "delete"
        )
        database.write(
            lambda connection: connection.execute(
                "INSERT OR IGNORE INTO manifest VALUES (1, 'k', 'f', 1, 0, 1, 0)"
            ),
            None,
        )
        assert database.problems == ()
        database.close()


def test_network_file_systems_are_known_by_their_mount() -> None:
    mounts = (
        "22 1 0:20 / / rw shared:1 - ext4 /dev/sda rw\n"
        "23 22 0:21 / /home rw - nfs4 host:/home rw\n"
        "24 23 0:22 / /home/my\\040disk rw - tmpfs none rw\n"
        "25 22 0:23 / /mnt rw - fuse.sshfs host: rw\n"
        "25 22 0:24 / /mnt rw master:2 - xfs /dev/sdb rw\n"
        "broken line\n"
    )
    assert file_system(Path("/var/x"), mounts) == "ext4"
    assert file_system(Path("/home/me"), mounts) == "nfs4"
    assert file_system(Path("/homes"), mounts) == "ext4"
    assert file_system(Path("/home/my disk/x"), mounts) == "tmpfs"
    assert file_system(Path("/mnt"), mounts) == "xfs"
    assert file_system(Path("/x"), "") == ""
    assert [is_network(kind) for kind in ("nfs4", "fuse.sshfs", "ext4", "overlay", "")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_no_wal_on_a_network_file_system(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_envpar.ledger.place.is_network", lambda _: True)
    _fill(path, "k")
    assert _ask(path, "PRAGMA journal_mode") == [("delete",)]


def test_a_lock_that_somebody_holds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock

    monkeypatch.setattr("pytest_envpar.ledger.place._LOCK_S", 0.01)
    with filelock.FileLock(f"{path}.guard"), Ledger(path) as ledger:
        assert _is_off(ledger)
        assert "held by another process" in ledger.problems[0]
    with Ledger(path) as ledger:
        assert _works(ledger)


# --- room ------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_make_room(path: Path) -> None:
    with Ledger(path, max_bytes=10 * MEBIBYTE) as ledger:
        for number in range(5):
            ledger.manifests.put(f"k{number}", "files", 1, bytes([number]) * MEBIBYTE)
    _ask(path, "UPDATE manifest SET used = id")
    with Ledger(path, max_bytes=10 * MEBIBYTE) as ledger:
        assert ledger.manifests.get("k0", "files", 1)
    with Ledger(path, max_bytes=10 * MEBIBYTE) as ledger:
        assert ledger.manifests.put("large", "files", 1, b"l" * (7 * MEBIBYTE))
        assert ledger.manifests.has([f"k{number}" for number in range(5)] + ["large"], "files", 1) == {
            "k0",
            "large",
        }
        assert ledger.room.used_bytes() <= 10 * MEBIBYTE
        assert ledger.problems == ()
    # What was given back is used again.
    with Ledger(path, max_bytes=10 * MEBIBYTE) as ledger:
        for number in range(30):
            ledger.manifests.put(f"n{number}", "files", 1, bytes([number]) * MEBIBYTE)
        assert ledger.room.used_bytes() <= 10 * MEBIBYTE
    assert path.stat().st_size <= 20 * MEBIBYTE


def test_what_is_larger_than_the_limit_is_not_kept(path: Path) -> None:
    with Ledger(path, max_bytes=12 * MEBIBYTE) as ledger:
        ledger.manifests.put("k", "files", 1, b"k")
        pieces = (b"x" * MEBIBYTE for _ in range(20))
        assert not ledger.manifests.put("huge", "files", 1, pieces)
        assert ledger.manifests.get("k", "files", 1) == b"k"
        assert "larger than the whole ledger may be" in ledger.problems[0]
    assert _ask(path, "SELECT count(*) FROM chunk") == [(1,)]


def test_runs_go_when_no_manifest_is_left_to_go(path: Path) -> None:
    with Ledger(path, max_bytes=MEBIBYTE) as ledger:
        outcomes = [OutcomeRecord(f"tests/test_{number}.py::test", "passed") for number in range(3000)]
        made = [ledger.runs.record(RUN, outcomes) for _ in range(30)]
        left = ledger.runs.of_project("/p", limit=100)
        assert 0 < len(left) < 30
        assert left[0].id == made[-1]
        assert ledger.room.used_bytes() <= MEBIBYTE


def test_old_runs_and_images_are_forgotten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_RUNS", 3)
    monkeypatch.setattr(room, "MAX_IMAGES", 2)
    with Ledger(path) as ledger:
        for number in range(4):
            ledger.images.record(
                ImageRecord(f"sha256:{number}", (LayerRecord(f"l{number}"), LayerRecord("base")))
            )
        made = [
            ledger.runs.record(RUN, [OutcomeRecord("a", "passed"), OutcomeRecord(f"once{number}", "passed")])
            for number in range(6)
        ]
        assert [run.id for run in ledger.runs.of_project("/p")] == made[:2:-1]
        assert [image.id for image in ledger.images.seen()] == ["sha256:3", "sha256:2"]
        assert ledger.images.layers(["l0", "l3", "base"]).keys() == {"l3", "base"}
    assert _ask(path, "SELECT count(*) FROM outcome") == [(6,)]
    assert _ask(path, "SELECT name FROM node ORDER BY name") == [("a",), ("once3",), ("once4",), ("once5",)]


def test_outcomes_do_not_crowd_out_manifests(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_OUTCOMES", 250)
    run = dataclasses.replace(RUN, counts={"passed": 90, "failed": 10})
    with Ledger(path) as ledger:
        made = [ledger.runs.record(run, [OutcomeRecord("a", "passed")]) for _ in range(5)]
        assert [each.id for each in ledger.runs.of_project("/p")] == made[:-3:-1]
        huge = ledger.runs.record(dataclasses.replace(RUN, counts={"passed": 1000}))
        ledger.room.tidy()
        assert [each.id for each in ledger.runs.of_project("/p")] == [huge]
