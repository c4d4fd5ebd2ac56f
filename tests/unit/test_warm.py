"""Warm containers: what their names say, what is noticed inside, and how a run does without."""

from __future__ import annotations

import contextlib
import dataclasses
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.containers import warm
from pytest_envpar.containers.labels import WARM, Owner
from pytest_envpar.containers.sweep import prune, sweep
from pytest_envpar.engine.values.engine import Listed
from pytest_envpar.errors import ConnectionLostError, EngineError, NotFoundError
from pytest_envpar.session.reuse import Reuse
from pytest_envpar.worker import start
from pytest_envpar.worker import warm as worker_warm
from pytest_envpar.worker.agent import watch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_a_name_says_who_uses_it(tmp_path: Path) -> None:
    maker = Owner.current(tmp_path)
    user = dataclasses.replace(maker, pid=maker.pid + 1, pid_start=77, run="0123456789ab")
    assert warm.user_of(warm.taken_name(user), maker) == user
    assert warm.user_of(warm.parked_name(maker, "qa", "0" * 16), maker) == maker
    assert warm.user_of("envpar-qa-0123456789ab-5", maker) == maker
    assert warm.user_of(warm.taken_name(user), None) is None


BEFORE = {"processes": [1], "/etc/hosts": (1, 2), "/dev/shm": []}


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({"processes": [1, 7]}, []),
        ({"processes": [1, 7, 9]}, ["processes"]),
        ({"processes": [1, 7], "/etc/hosts": (1, 3)}, ["/etc/hosts"]),
        ({"processes": [1, 7], "/dev/shm": ["x"]}, ["/dev/shm"]),
        ({"processes": [1, 7], "/mnt": []}, ["/mnt"]),
    ],
)
def test_what_is_noticed(monkeypatch: pytest.MonkeyPatch, now: dict[str, Any], told: list[str]) -> None:
    looks = iter([BEFORE, {**BEFORE, **now}])
    monkeypatch.setattr(watch, "_look", lambda: next(looks))
    assert watch.Watch().changed([7]) == told


def test_folders_in_memory_are_found_by_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (
        "tmpfs /a\\040b tmpfs rw",
        "x /src ext4 rw",
        "tmpfs /proc/acpi tmpfs ro",
        "m /dev/mqueue mqueue rw",
    )
    monkeypatch.setattr(watch, "_read", lambda _: "\n".join(rows).encode())
    assert watch.in_memory() == ["/a b", "/dev/mqueue"]


# --- without one -----------------------------------------------------------------------------------------------

KEY = "0" * 16


class _Engine:
    """Has one container that waits, and fails at one verb."""

    info = SimpleNamespace(id="engine", url="unix:///x.sock")

    def __init__(self, owner: Owner, verb: str = "", error: EngineError | None = None) -> None:
        labels = {**owner.labels("run", "qa"), WARM: "base"}
        self.waiting = [Listed("c1", warm.parked_name(owner, "qa", KEY), labels, "running")]
        self.removed: list[str] = []
        self.verb, self.error = verb, error

    def _call(self, verb: str) -> None:
        if verb == self.verb and self.error is not None:
            raise self.error

    def list_containers(self, _: object) -> list[Listed]:
        return self.waiting

    def rename(self, *_: str) -> None:
        self._call("rename")

    def inspect_container(self, _: str) -> Any:
        self._call("inspect")
        return SimpleNamespace(status="running", image_id="image", mounts=())

    def attach(self, _: str) -> None:
        self._call("attach")

    def remove_container(self, name: str) -> None:
        self.removed.append(name)

    remove_volume = remove_container


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(worker_warm, "obstacle", lambda _: None)
    monkeypatch.setattr(worker_warm, "key", lambda *_: KEY)
    owner = Owner.current(tmp_path)
    image, stage = SimpleNamespace(image_id="image"), SimpleNamespace(name="qa")
    return SimpleNamespace(engine=_Engine(owner), owner=owner, image=image, stage=stage)


@pytest.mark.parametrize(
    ("verb", "told", "removed"),
    [
        ("rename", "no warm container: No such container", False),
        ("inspect", "the warm container is replaced: No such container", True),
        ("attach", "the warm container is replaced: No such container", True),
    ],
)
def test_one_that_vanishes_is_done_without(
    verb: str, told: str, removed: bool, ground: Any, tmp_path: Path
) -> None:
    ground.engine = _Engine(ground.owner, verb, NotFoundError("No such container"))
    lines: list[str] = []
    reuse = Reuse({}, tmp_path, lines.append)
    assert reuse.take(ground) is None
    reuse.close()
    assert lines == [f"stage qa: {told}"]
    assert ("c1" in ground.engine.removed) is removed


@pytest.mark.parametrize("verb", ["rename", "inspect"])
def test_an_engine_that_is_lost_is_told(verb: str, ground: Any, tmp_path: Path) -> None:
    ground.engine = _Engine(ground.owner, verb, ConnectionLostError("gone"))
    with pytest.raises(ConnectionLostError):
        Reuse({}, tmp_path, print).take(ground)


def test_without_a_folder_for_locks_there_is_none(
    ground: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_warm, "leave", lambda *_: pytest.fail("it could not be parked"))
    (tmp_path / "file").touch()
    lines: list[str] = []
    reuse = Reuse({}, tmp_path / "file" / "warm", lines.append)
    assert reuse.take(ground) is None
    reuse.leave()
    reuse.close()
    (line,) = lines
    assert line.startswith("stage qa: no warm container: ")
    assert "Not a directory" in line


def test_neither_is_there_while_another_run_holds_the_lock(
    ground: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def started(*_: object) -> Iterator[Any]:
        yield SimpleNamespace(id="c2")

    monkeypatch.setattr(start, "start_watched", started)
    monkeypatch.setattr(warm, "_LOCK_S", 0.0)
    ground.engine.waiting = []
    lines: list[str] = []
    reuse = Reuse({}, tmp_path, lines.append)
    assert reuse.take(ground) is None  # there is no container, and it could leave one
    with warm._lock(ground.engine, ground.owner, "qa", tmp_path):
        assert Reuse({}, tmp_path, lines.append).take(ground) is None
        reuse.leave()
        reuse.close()
    first, second = lines
    assert first.startswith("stage qa: no warm container: ")
    assert second.startswith("stage qa: no warm container for the next run: ")
    assert "lock" in first


# --- removed by others -----------------------------------------------------------------------------------------


class _Shared:
    """Has one container that waits, with a volume; a run claims it right after it was listed, if asked."""

    def __init__(self, owner: Owner, claimed: bool) -> None:
        labels = {**owner.labels("run", "qa"), WARM: "base"}
        self.container: Listed | None = Listed("c1", warm.parked_name(owner, "qa", KEY), labels, "running")
        self.volume = Listed("base-work", "base-work", labels)
        self.claimed = claimed
        self.removed: list[str] = []

    def list_containers(self, _: object) -> list[Listed]:
        assert self.container is not None
        listed = [self.container]
        if self.claimed:
            self.container = dataclasses.replace(self.container, name="envpar-taken-1-2-0123456789ab")
        return listed

    def list_volumes(self, _: object) -> list[Listed]:
        return [self.volume]

    def list_networks(self, _: object) -> list[Listed]:
        return []

    list_images = list_tagged = list_networks

    def inspect_container(self, name: str) -> Listed:
        if self.container is None or name not in (self.container.id, self.container.name):
            raise NotFoundError("No such container")
        return self.container

    def remove_container(self, name: str) -> None:
        with contextlib.suppress(NotFoundError):
            self.inspect_container(name)
            self.container = None
            self.removed.append("container")

    def remove_volume(self, _: str) -> None:
        self.removed.append("volume")


@pytest.mark.parametrize("gone", [False, True], ids=["prune", "sweep"])
@pytest.mark.parametrize("claimed", [True, False])
def test_one_that_a_run_has_claimed_meanwhile_is_left_alone(
    tmp_path: Path, claimed: bool, gone: bool
) -> None:
    engine: Any = _Shared(Owner.current(tmp_path / "none" if gone else tmp_path), claimed)
    swept = sweep(engine) if gone else prune(engine, cache=True)
    assert engine.removed == ([] if claimed else ["container", "volume"])
    assert [each.type for each in swept.removed] == engine.removed
    assert swept.failed == ()
