"""The scanner where it can hardly run, and comparisons that go on without it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import struct
import tarfile
import threading
from queue import SimpleQueue
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_envpar.drift import paired, remote, stat_tables
from pytest_envpar.drift.inside import digests, program, scan
from pytest_envpar.drift.manifest import ManifestError
from pytest_envpar.drift.outside import Outside
from pytest_envpar.drift.produce import MemoryStore, Producer
from pytest_envpar.drift.routes import compare_sides
from pytest_envpar.drift.scanners import NoWayError, Scanners
from pytest_envpar.drift.sides import Side
from pytest_envpar.engine.values.images import RunConfig
from pytest_envpar.errors import ConnectionLostError, EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pytest_envpar.engine.api import Engine, Stream
    from pytest_envpar.engine.values.create import ContainerSpec


def frame(letter: bytes, data: bytes = b"") -> bytes:
    return letter + struct.pack(">I", len(data)) + data


@pytest.fixture(params=[0, 1, 99])
def few_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    left, start = [request.param], threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)


@pytest.mark.usefixtures("few_threads")
def test_without_threads_everything_is_read_all_the_same(tmp_path: Path) -> None:
    paths = [f"/{number:02}" for number in range(60)]
    for path in paths:
        (tmp_path / path[1:]).write_bytes(b"x" * (digests.SMALL + 1))
    (row,) = {row[4] for row in scan.Scan(str(tmp_path)) if row[0] != "/"}
    asked = "".join(f"{path}\0" for path in paths).encode()
    out = io.BytesIO()
    program.Answerer(str(tmp_path), "/proc/self", io.BytesIO(frame(b"D", asked)), out).answer()
    for path in paths:
        assert frame(b"P", f"{path}\0{row}\0\0\0".encode()) in out.getvalue()
    assert out.getvalue().endswith(frame(b"E"))


@pytest.mark.parametrize("read", [True, False])
def test_what_a_container_changed_itself_is_no_file_of_another(read: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "folder").mkdir()
    changed = (tmp_path / "file").stat().st_ctime_ns

    def idents(born: int | None) -> list[str]:
        return [row[8] for row in scan.Scan(str(tmp_path), read=read, born=born)]

    (_, same, _) = idents(None)
    assert idents(changed + 1) == idents(None) == ["", same, ""]
    one, two = idents(changed), idents(changed)
    # Not even two passes over the same container: then it is read.
    assert one[1].startswith(f"{same}:")
    assert one[1] != two[1]
    assert (one[0], one[2]) == ("", "")


def test_a_file_system_may_cut_times_to_the_second() -> None:
    second = 10**9
    assert scan.changed_since(1000 * second, 1000 * second + second // 2)
    assert scan.changed_since(1000 * second, 1001 * second - 1)
    assert not scan.changed_since(1000 * second, 1001 * second)
    assert not scan.changed_since(1000 * second + 1, 1000 * second + 2)


def test_the_engines_clock_may_be_a_tick_ahead_of_the_files(tmp_path: Path) -> None:
    """What a container does at once is stamped with a time before that at which the engine says it was made."""
    (tmp_path / "file").write_bytes(b"1")
    changed_s = (tmp_path / "file").stat().st_ctime

    def own(ahead_s: float) -> bool:
        stream = Said(False)
        made = remote.Scanner(cast("Stream", stream), "container x", born_s=changed_s + ahead_s)
        made.frames(())
        out = io.BytesIO()
        program.Answerer(str(tmp_path), "/proc/self", io.BytesIO(stream.heard), out).answer()
        greeting, answer = out.getvalue()[:5], out.getvalue()[5:]
        answer = answer[int.from_bytes(greeting[1:], "big") :]
        (ident,) = (row[8] for row in scanner(answer).rows() if row[0] == "/file")
        return ident.count(":") == 2

    assert own(-1.0)
    assert own(0.01)
    assert not own(1.0)


def test_what_fails_in_a_thread_is_told_to_whoever_asks() -> None:
    threads = digests.Threads()
    future = threads.submit(int, "x")
    threads.close()
    with pytest.raises(ValueError, match="invalid literal"):
        future.result()


class Failing:
    """An engine with two images, in which scanners begin and then fail.

    Args:
        lost: Whether the engine is gone with them.
        without: Images without a Python.
    """

    def __init__(
        self, *, lost: bool = False, without: Sequence[str] = (), image_mounts: bool = False
    ) -> None:
        self.info = SimpleNamespace(kind="docker", id="x", rootless=False, image_mounts=image_mounts)
        self.made: list[ContainerSpec] = []
        self.removed: SimpleQueue[str] = SimpleQueue()
        self._lost = lost
        self._without = without

    def image_folders(self, _: str) -> None:
        return None

    def create_container(self, spec: ContainerSpec) -> str:
        self.made.append(spec)
        return spec.image

    def attach(self, container: str) -> Any:
        said = Said(self._lost)
        return (
            SimpleNamespace(read=lambda _: (0, b""), close=said.close) if container in self._without else said
        )

    def start(self, _: str) -> None:
        pass

    def remove_container(self, container: str) -> None:
        self.removed.put(container)

    def export(self, container: str) -> Iterator[bytes]:
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as made:
            made.addfile(tarfile.TarInfo(f"only-in-{container}"))
        yield raw.getvalue()


BROKEN = frame(b"X", b"RuntimeError\0can't start new thread\0")


class Said:
    def __init__(self, lost: bool, *frames: bytes) -> None:
        self._lost = lost
        self._pieces = iter([frame(b"H", b"\0"), *(frames or [BROKEN])])
        self.heard = b""

    def read(self, _: float) -> tuple[int, bytes]:
        piece = next(self._pieces, b"")
        if self._lost and piece[:1] == b"X":
            raise ConnectionLostError("the engine is gone")
        return (1, piece) if piece else (0, b"")

    def write(self, data: bytes) -> None:
        self.heard += data

    def close(self) -> None:
        pass


def sides(engine: Failing, *shared: str) -> tuple[Side, Side]:
    one, two = (
        Side(name, RunConfig(), name, (*shared, f"sha256:{name}"), cast("Engine", engine))
        for name in ("a", "b")
    )
    return one, two


@pytest.mark.parametrize(
    ("shared", "told"),
    [(("sha256:base",), "not by scanning both"), ((), "not by scan")],
    ids=["layers in common", "none"],
)
def test_a_scanner_that_fails_leaves_the_next_way_open(shared: tuple[str, ...], told: str) -> None:
    found = compare_sides(*sides(Failing(), *shared), labels={"x": "y"})
    assert found.route == "export"
    assert [change.path for change in found.changes] == ["/only-in-a", "/only-in-b"]
    assert any(why.startswith(f"{told}: ") and "can't start new thread" in why for why in found.why)
    assert any("no layer in common" in why for why in found.why) == (not shared)


def test_a_scanner_that_was_asked_for_has_to_work() -> None:
    with pytest.raises(EngineError, match="can't start new thread"):
        compare_sides(*sides(Failing()), force="scan", labels={"x": "y"})


@pytest.mark.parametrize(
    ("volumes", "without", "able", "tried", "told"),
    [
        ((), ["a"], True, ["a", "b mounts a"], ""),
        ((), ["a"], False, ["a"], "a: no Python could be started there"),
        (("/data",), [], True, ["a mounts a"], ""),
        (("/data",), ["a"], True, ["a mounts a", "b mounts a"], ""),
        (("/data",), [], False, [], "a: it declares volumes, which would hide what it has there"),
        ((), ["a", "b"], True, ["a", "b mounts a"], "a: no Python could be started there"),
    ],
)
def test_an_image_is_mounted_where_there_is_a_python(
    volumes: tuple[str, ...], without: list[str], able: bool, tried: list[str], told: str
) -> None:
    engine = Failing(without=without, image_mounts=able)
    side = dataclasses.replace(sides(engine)[0], config=RunConfig(volumes=volumes))
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as failing:
        if told:
            failing.enter_context(pytest.raises(NoWayError, match=told))
        Scanners({}, stack, ["a", "b"]).of(side)
    assert [
        " ".join((spec.image, *(f"mounts {mount.source}" for mount in spec.mounts))) for spec in engine.made
    ] == tried
    for spec in engine.made:
        assert spec.log == "none"
        folder = spec.command[-1]
        assert [str(mount.target) for mount in spec.mounts] == ([folder] if folder else [])
        assert all(mount.kind == "image" and mount.read_only for mount in spec.mounts)


def test_a_container_goes_as_soon_as_it_is_not_asked_any_more() -> None:
    engine = Failing()
    with contextlib.ExitStack() as stack:
        scanners = Scanners({}, stack)
        one, _ = (scanners.of(side) for side in sides(engine))
        scanners.done(one)
        scanners.done(one)
        assert engine.removed.get(timeout=60) == "a"
        assert engine.removed.empty()
    assert engine.removed.get_nowait() == "b"
    assert engine.removed.empty()


def test_only_what_is_mounted_below_a_folder_counts_there(tmp_path: Path) -> None:
    places = ("/", "/.envpar/image", "/.envpar/images", "/.envpar/image/a b".replace(" ", "\\040"), "/proc")
    lines = [f"1 2 0:3 / {place} ro - {kind} none ro\n" for place, kind in zip(places, "abcde", strict=True)]
    (tmp_path / "mountinfo").write_text("".join(lines))
    assert program.mounts(str(tmp_path), "/.envpar/image") == {"/": "b", "/a b": "d"}
    assert [*program.mounts(str(tmp_path))] == [*places[:3], "/.envpar/image/a b", "/proc"]


def test_without_the_engine_there_is_no_other_way() -> None:
    with pytest.raises(ConnectionLostError):
        compare_sides(*sides(Failing(lost=True)), labels={"x": "y"})


def scanner(*frames: bytes) -> remote.Scanner:
    return remote.Scanner(cast("Stream", Said(False, *frames)), "container x")


def numbered(letter: bytes, start: int = 0) -> bytes:
    return frame(letter, "".join(f"/{start + number}\0no\0" for number in range(10)).encode())


@pytest.mark.parametrize("letter", [b"N", b"M"])
def test_what_is_mounted_or_not_read_is_bounded(letter: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_LINKS", 15)
    assert list(scanner(numbered(letter), frame(b"E")).frames(())) == []
    with pytest.raises(EngineError, match="more than 15 paths"):
        list(scanner(numbered(letter), numbered(letter, 10), frame(b"E")).frames(()))
    monkeypatch.setattr(remote, "_MAX_TOLD", 60)
    with pytest.raises(EngineError, match="says too much"):
        list(scanner(numbered(letter), numbered(letter), frame(b"E")).frames(()))
    monkeypatch.setattr(remote, "_MAX_FIELDS", 19)
    with pytest.raises(EngineError, match="too much at once"):
        list(scanner(numbered(letter), frame(b"E")).frames(()))


def test_only_what_was_asked_is_answered() -> None:
    one, other = (frame(b"P", f"/{name}\0\0\0\0".encode()) for name in "ab")
    assert list(scanner(one, frame(b"E")).details(["/a", "/c"])) == ["/a"]
    for frames in ([one, other], [one, one]):
        with pytest.raises(EngineError, match="answer is broken"):
            scanner(*frames, frame(b"E")).details(["/a", "/c"])


@pytest.mark.parametrize("data", [b"", b"/a\0f644\0000:0\0000\0\0\0\0000\0001:1\0"])
def test_rows_that_are_passed_over_count(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "MAX_ENTRIES", 15)
    for count in (15, 16):
        frames = [frame(b"R", data)] * count + [frame(b"E")]
        compared = paired.compare_listings(
            scanner(*frames),
            scanner(*frames),
            skip=((), ()),
            outside=lambda: lambda _: False,
            mtime=False,
            note=lambda *_: None,
        )
        if count == 15:
            assert list(compared) == []
        else:
            with pytest.raises(ManifestError, match="more than 15"):
                list(compared)


def test_what_is_too_large_to_be_read_again_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [frame(b"R", b"x" * 95)] * 3 + [frame(b"E")]
    for most in (300, 299):
        monkeypatch.setattr(stat_tables, "_MAX_RAW", most)
        recorder = stat_tables.Recorder(scanner(*frames), "a")
        assert len(list(recorder.frames(()))) == 3
        assert (recorder.table() is not None) == (most == 300)


def test_why_everything_was_listed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # Folders without a number: it is no overlay.
    root = frame(b"R", b"/\0d755\0000:0\0\0\0\0\0000\0\0")
    monkeypatch.setattr(Scanners, "of", lambda *_: scanner(root, frame(b"E")))
    left, right = sides(Failing(), "sha256:base")
    told: list[str] = []
    with contextlib.ExitStack() as stack:
        producer = Producer(MemoryStore(), Outside(), {"x": "y"}, stack)
        parts = producer.parts(left, right, (), fresh=False, say=told.append)
    assert parts is not None
    assert [cast("stat_tables.Recorder", each).key for each in parts] == ["stat:x:a", "stat:x:b"]
    assert told == ["all of both was listed: they are no overlays"]


def answered(root: Path, *requests: bytes) -> tuple[list[list[str]], dict[str, str], list[bytes]]:
    """What an answerer says of the files below a root: rows, notes by path and the letters of the frames."""
    out = io.BytesIO()
    program.Answerer(str(root), "/proc/self", io.BytesIO(b"".join(requests)), out).answer()
    data = out.getvalue()
    rows: list[list[str]] = []
    notes: dict[str, str] = {}
    letters = []
    while data:
        (size,) = struct.unpack(">I", data[1:5])
        letter, fields = data[:1], data[5 : 5 + size].decode().split("\0")[:-1]
        data = data[5 + size :]
        letters.append(letter)
        assert size <= program._FRAME + 4096
        if letter in (b"R", b"L"):
            assert len(fields) % remote.ROW == 0
            new = [fields[at : at + remote.ROW] for at in range(0, len(fields), remote.ROW)]
            assert (letter == b"L") == any(row[5] for row in new)
            rows += new
        elif letter == b"N":
            notes |= dict(zip(fields[::2], fields[1::2], strict=True))
        elif letter == b"X":
            notes["X"] = fields[0]
    return rows, notes, letters


def folders(*paths: str, limit: int = 100, skip: tuple[str, ...] = ()) -> bytes:
    fields = [str(limit), str(len(skip)), *skip, *paths]
    return frame(b"F", "".join(f"{field}\0" for field in fields).encode())


@pytest.fixture
def overlay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "mounts", lambda *_: {"/": "overlay", "/mounted": "tmpfs"})


@pytest.mark.usefixtures("overlay")
def test_a_folder_is_listed_without_what_is_below_it(tmp_path: Path) -> None:
    for path in ("a/b/c", "mounted", "left-out"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "a/one").write_bytes(b"1")
    os.link(tmp_path / "a/one", tmp_path / "a/two")
    (tmp_path / "a/b/file").write_bytes(b"12")
    (tmp_path / "to-a").symlink_to("a")
    request = folders("/", "/a", "/gone", "/to-a", "/a/b/file", "/" + "x" * 300, skip=("/left-out",))
    rows, notes, letters = answered(tmp_path, request)
    assert [(row[0], row[1][0], row[5]) for row in rows] == [
        ("/", "d", ""),
        ("/a", "d", ""),
        ("/to-a", "l", ""),
        ("/a/b", "d", ""),
        ("/a/one", "f", "/a/one"),
        ("/a/two", "f", "/a/one"),
    ]
    idents = {row[0]: row[8] for row in rows}
    folder = (tmp_path / "a").stat()
    assert idents["/a"] == f"{folder.st_ino}:{folder.st_ctime_ns}"
    file = (tmp_path / "a/one").stat()
    assert idents["/a/one"] == idents["/a/two"] == f"{file.st_ino}:{file.st_ctime_ns}:2"
    # It goes on after what cannot be entered.
    assert notes == {
        **dict.fromkeys(("/gone", "/to-a", "/a/b/file"), "it was gone when it was read"),
        "/" + "x" * 300: "it cannot be read: File name too long",
    }
    assert letters == [b"H", b"M", b"L", b"N", b"E"]


def test_a_folder_that_is_no_overlay_has_no_number_that_says_something(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    rows, _, _ = answered(tmp_path, folders("/"))
    assert [(row[0], row[8]) for row in rows] == [("/", ""), ("/a", "")]


@pytest.mark.usefixtures("overlay")
def test_a_large_folder_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_FRAME", 1000)
    names = [f"{number:03}" for number in range(99)]
    for name in names:
        (tmp_path / name).touch()
    rows, _, letters = answered(tmp_path, folders("/"))
    assert [row[0] for row in rows] == ["/", *(f"/{name}" for name in names)]
    assert letters.count(b"R") == 10


@pytest.mark.usefixtures("overlay")
def test_too_many_entries_are_refused_and_the_next_question_is_answered(tmp_path: Path) -> None:
    for folder in "abc":
        (tmp_path / folder).mkdir()
        for number in range(4):
            (tmp_path / folder / str(number)).touch()
    _, notes, letters = answered(tmp_path, folders("/a", "/b", "/c", limit=11), folders("/a", limit=4))
    assert notes == {"X": "LimitError"}
    assert letters == [b"H", b"M", b"X", b"M", b"R", b"N", b"E"]
