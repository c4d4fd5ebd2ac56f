"""Which pytest runs, and how often the engine is asked, without an engine."""

# ruff: noqa: ARG002, ARG005 - stand-ins take what the real ones take
from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_envpar.config.model import Stage
from pytest_envpar.engine.values.create import ContainerSpec, Mount
from pytest_envpar.engine.values.engine import EngineInfo, Listed
from pytest_envpar.engine.values.images import ImageInfo
from pytest_envpar.errors import EngineError, StageError, UsageError
from pytest_envpar.worker import cache, dists, payload, volume
from pytest_envpar.worker.probe import Probe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_envpar.engine.api import Engine

INFO = EngineInfo("docker", "20", "1.41", "unix:///x", True, False, True, 1, "linux", "amd64", "ENGINE")
IMAGE = ImageInfo(
    "sha256:1",
    ("app:qa",),
    (),
    (),
    "linux",
    "amd64",
    "",
    MappingProxyType({}),
    "",
    "",
    (),
    (),
    (),
    MappingProxyType({}),
)
PROBE = Probe(
    python=PurePosixPath("/usr/bin/python3"),
    version=(3, 12, 1),
    cache_tag="cpython-312",
    magic="cb0d0d0a",
    implementation="cpython",
    machine="x86_64",
    prefix=PurePosixPath("/usr"),
    scripts=PurePosixPath("/usr/bin"),
    pytest_version=None,
    uid=0,
    gid=0,
    home=PurePosixPath("/root"),
    project_path_state="absent",
    project_reachable=True,
)


class FakeEngine:
    """Records the verbs; its containers print what they are told to."""

    info = INFO

    def __init__(self, *, stdout: bytes = b"filled\n", stderr: bytes = b"", exit_code: int = 0) -> None:
        self.calls: list[str] = []
        self.specs: list[ContainerSpec] = []
        self.volumes: dict[str, Mapping[str, str]] = {}
        self.tar = b""
        self._answer = [(1, stdout), (2, stderr), (0, b"")]
        self._exit_code = exit_code

    def inspect_volume(self, name: str) -> Listed | None:
        self.calls.append("inspect_volume")
        return Listed(name, name, self.volumes[name]) if name in self.volumes else None

    def create_volume(self, name: str, *, labels: Mapping[str, str]) -> PurePosixPath:
        self.calls.append("create_volume")
        self.volumes[name] = labels
        return PurePosixPath("/v")

    def create_container(self, spec: ContainerSpec) -> str:
        self.calls.append("create")
        self.specs.append(spec)
        return "c"

    def put_archive(self, container: str, path: PurePosixPath, tar: bytes | Iterable[bytes]) -> None:
        self.calls.append("put_archive")
        self.tar = tar if isinstance(tar, bytes) else b"".join(tar)

    def attach(self, container: str) -> FakeEngine:
        self.calls.append("attach")
        self._pieces = iter(self._answer)
        return self

    def start(self, container: str) -> None:
        self.calls.append("start")

    def read(self, timeout_s: float | None = None) -> tuple[int, bytes]:
        return next(self._pieces)

    def close(self) -> None:
        self.calls.append("close")

    def wait(self, container: str, *, timeout_s: float | None = None) -> int:
        return self._exit_code

    def remove_container(self, container: str) -> None:
        self.calls.append("remove")


@pytest.fixture
def small_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """No real pytest has to be rewritten for these tests."""
    monkeypatch.setattr(dists, "choose", lambda python: dists.Choice({"pytest": "9.9", "pluggy": "1.9"}))
    files = {"pytest": {PurePosixPath("pytest/__init__.py"): b"import pluggy\n"}}
    monkeypatch.setattr(dists, "sources", lambda *args: files)


def ensure(engine: FakeEngine, cache_dir: Path, agent: Any = "auto", **changes: Any) -> payload.Payload:
    probe = dataclasses.replace(PROBE, **changes)
    stage = Stage("qa")
    return payload.ensure(cast("Engine", engine), IMAGE, probe, agent, cache_dir, stage=stage)


@pytest.mark.usefixtures("small_tree")
@pytest.mark.parametrize(
    ("agent", "own", "mode", "site", "first"),
    [
        ("auto", None, "inject", True, False),
        ("auto", "7.0", "image", False, False),
        ("auto", "8.4.2", "image", False, False),
        ("auto", "6.2.5", "inject", True, True),
        ("auto", "unparsable", "inject", True, True),
        ("inject", "9.0", "inject", True, True),
        ("inject", None, "inject", True, False),
        ("image", "7.4", "image", False, False),
    ],
)
def test_mode(tmp_path: Path, agent: str, own: str | None, mode: str, site: bool, first: bool) -> None:
    made = ensure(FakeEngine(), tmp_path, agent, pytest_version=own)
    assert made.mode == mode
    assert made.pytest_version == ("9.9" if mode == "inject" else own)
    assert made.site == (PurePosixPath("/.envpar/agent/site") if site else None)
    assert made.first == (PurePosixPath("/.envpar/agent/first") if first else None)
    assert made.mount == Mount("volume", made.volume, PurePosixPath("/.envpar/agent"), read_only=True)


@pytest.mark.parametrize(("own", "said"), [(None, "has no pytest"), ("6.2", "has pytest 6.2")])
def test_the_image_has_to_have_what_is_demanded_of_it(tmp_path: Path, own: str | None, said: str) -> None:
    with pytest.raises(StageError) as caught:
        ensure(FakeEngine(), tmp_path, "image", pytest_version=own)
    text = str(caught.value)
    assert text.startswith('Stage qa: agent = "image" asks for')
    assert f"/usr/bin/python3 in image app:qa {said}" in text
    assert 'hint: install pytest 7.0 or newer in the image, or set agent = "auto"' in text


@pytest.mark.usefixtures("small_tree")
def test_a_warm_call_is_one_inspection(tmp_path: Path) -> None:
    engine = FakeEngine()
    first = ensure(engine, tmp_path)
    assert engine.calls == ["create_volume", "create", "put_archive", "attach", "start", "close", "remove"]
    engine.calls.clear()
    assert ensure(engine, tmp_path) == first
    assert engine.calls == ["inspect_volume"]


@pytest.mark.usefixtures("small_tree")
def test_a_volume_that_went_away_is_filled_again(tmp_path: Path) -> None:
    engine = FakeEngine()
    made = ensure(engine, tmp_path)
    engine.volumes.clear()
    assert ensure(engine, tmp_path) == made
    assert list(engine.volumes) == [made.volume]
    assert engine.calls.count("start") == 2


@pytest.mark.usefixtures("small_tree")
def test_the_volume_is_named_after_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def name(**changes: Any) -> str:
        return ensure(FakeEngine(), tmp_path, **changes).volume

    base = name()
    assert base.startswith("pytest-envpar-agent-")
    assert len(base) == len("pytest-envpar-agent-") + 16
    assert name(home=PurePosixPath("/elsewhere")) == base
    others = {name(cache_tag="cpython-313"), name(magic="00"), name(pytest_version="8.0")}
    monkeypatch.setattr(dists, "choose", lambda python: dists.Choice({"pytest": "9.10", "pluggy": "1.9"}))
    others.add(name())
    assert len(others | {base}) == 5


@pytest.mark.usefixtures("small_tree")
def test_what_goes_in(tmp_path: Path) -> None:
    engine = FakeEngine()
    made = ensure(engine, tmp_path)
    (spec,) = engine.specs
    assert spec.user == "0:0"
    assert spec.network == "none"
    assert spec.mounts == (Mount("volume", made.volume, PurePosixPath("/.envpar/agent")),)
    assert spec.labels["pytest-envpar.stage"] == "qa"
    assert engine.volumes[made.volume]["pytest-envpar.kind"] == "cache"
    with tarfile.open(fileobj=io.BytesIO(engine.tar)) as tar:
        members = {member.name.partition("/")[2]: member for member in tar}
    assert {
        "site/pytest/__init__.py",
        "site/_envpar_deps/__init__.py",
        "_envpar_agent/probe_inside.py",
    } < set(members)
    assert all(member.uid == member.gid == 0 for member in members.values())
    assert {member.mode for member in members.values() if member.isdir()} == {0o755}
    assert {member.mode for member in members.values() if member.isfile()} == {0o644}
    assert members["first/pytest"].linkname == "../site/pytest"
    # Two empty blocks and no more: Podman fails where more comes after it has stopped reading.
    with tarfile.open(fileobj=io.BytesIO(engine.tar)) as tar:
        tar.getmembers()
        assert engine.tar[tar.offset :] == b"\0" * 1024


@pytest.mark.usefixtures("small_tree")
@pytest.mark.parametrize("damage", ["tar", "sha256"])
def test_a_damaged_tree_is_built_again(tmp_path: Path, damage: str) -> None:
    first = FakeEngine()
    made = ensure(first, tmp_path)
    (kept,) = (tmp_path / "trees").glob(f"*.{damage}")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:40])
    second = FakeEngine()
    assert ensure(second, tmp_path) == made
    assert kept.read_bytes() == whole


@pytest.mark.usefixtures("small_tree")
@pytest.mark.parametrize(("stdout", "exit_code"), [(b"", 1), (b"", 0)])
def test_a_fill_that_failed_says_so_and_is_not_remembered(
    tmp_path: Path, stdout: bytes, exit_code: int
) -> None:
    engine = FakeEngine(stdout=stdout, stderr=b"Traceback\nOSError: no space\n", exit_code=exit_code)
    with pytest.raises(EngineError) as caught:
        ensure(engine, tmp_path)
    assert f"could not be filled: /usr/bin/python3 in image sha256:1 ended with exit code {exit_code}" in str(
        caught.value
    )
    assert "OSError: no space" in caught.value.detail
    assert engine.calls[-1] == "remove"
    good = FakeEngine()
    ensure(good, tmp_path)
    assert "start" in good.calls


@pytest.mark.usefixtures("small_tree")
def test_progress_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    engine = cast("Engine", FakeEngine())
    for _ in range(2):
        payload.ensure(engine, IMAGE, PROBE, "auto", tmp_path, told.append)
    assert told == ["preparing pytest 9.9 for Python 3.12 (once)"]


def test_sources_that_cannot_be_moved_are_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dists, "choose", lambda python: dists.Choice({"pytest": "9.9"}))
    monkeypatch.setattr(
        dists, "sources", lambda *args: {"pluggy": {PurePosixPath("pluggy/a.py"): b"import pluggy ???"}}
    )
    with pytest.raises(StageError, match=r"pytest 9\.9 cannot be prepared") as caught:
        ensure(FakeEngine(), tmp_path)
    assert caught.value.detail[0].startswith("pluggy/a.py: ")


def test_the_fill_script_is_whole_or_nothing(tmp_path: Path) -> None:
    """The script that runs in the image, here on the host: what is complete is left alone."""
    import subprocess
    import sys

    def fill(key: str, name: str) -> str:
        incoming = tmp_path / f".incoming-{name}"
        (incoming / "site").mkdir(parents=True)
        (incoming / "site" / "mod.py").write_text(f"key = {key!r}\n")
        command = [sys.executable, "-I", "-c", volume.FILL, str(tmp_path), str(incoming), key]
        subprocess.run(command, check=True, stdout=subprocess.PIPE)
        assert not incoming.exists()
        assert json.loads((tmp_path / "complete.json").read_text())["key"] == key
        return (tmp_path / "site" / "mod.py").read_text()

    assert fill("a", "1") == "key = 'a'\n"
    (bytecode,) = (tmp_path / "site" / "__pycache__").iterdir()
    assert int.from_bytes(bytecode.read_bytes()[4:8], "little") == 0b01, "not of the unchecked kind"
    before = (tmp_path / "site").stat().st_ino
    assert fill("a", "2") == "key = 'a'\n"
    assert (tmp_path / "site").stat().st_ino == before, "a complete volume is left alone"
    (tmp_path / "complete.json").write_text("cut of")
    assert fill("a", "3") == "key = 'a'\n"
    assert (tmp_path / "site").stat().st_ino == before, "what is in place is whole"


class TestCache:
    def test_round_trip(self, tmp_path: Path) -> None:
        place = tmp_path / "a" / "b.json"
        cache.store(place, 1, {"x": 1})
        assert cache.load(place, 1) == {"x": 1}
        assert [path.name for path in place.parent.iterdir()] == ["b.json"]

    def test_another_version_is_ignored(self, tmp_path: Path) -> None:
        cache.store(tmp_path / "b.json", 1, {"x": 1})
        assert cache.load(tmp_path / "b.json", 2) is None

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"[]", b"\xff", b'{"version": 1}', b'{"version": 1, "data": 3}']
    )
    def test_damage_is_ignored(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "b.json").write_bytes(content)
        assert cache.load(tmp_path / "b.json", 1) is None

    def test_a_place_that_cannot_be_written_does_not_fail(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        cache.store(tmp_path / "file" / "b.json", 1, {})

    def test_a_failed_write_leaves_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "b.json").mkdir()
        with pytest.raises(OSError, match=r"b\.json"):
            cache.write(tmp_path / "b.json", b"x")
        assert [path.name for path in tmp_path.iterdir()] == ["b.json"]

    def test_digest_tells_its_parts_apart(self) -> None:
        assert cache.digest("ab", "c") != cache.digest("a", "bc")
        assert cache.digest("\udcff") == cache.digest("\udcff")


def test_a_cache_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    owner: Any = None
    filler = volume.Filler(
        cast("Engine", FakeEngine()), IMAGE, PROBE, None, owner, tmp_path / "file" / "cache"
    )
    with pytest.raises(UsageError, match=r"the cache folder .* cannot be used: .*Not a directory") as caught:
        filler.ensure("v", "key", PurePosixPath("/x"), lambda _: b"")
    assert "XDG_CACHE_HOME" in str(caught.value.hint)
