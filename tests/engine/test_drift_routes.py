"""Every kind of change over every route, on real engines: the same answer, entry for entry."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import secrets
import zlib
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_envpar.drift.changes import left_behind
from pytest_envpar.drift.model import sort_key
from pytest_envpar.drift.produce import MemoryStore
from pytest_envpar.drift.routes import compare_sides
from pytest_envpar.drift.scanners import NoWayError, Scanners
from pytest_envpar.drift.sides import archive_side, container_side, image_side
from pytest_envpar.engine.values.create import ContainerSpec

from . import planted
from .engines import DOCKER_FIRST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pytest_envpar.drift.changes import Changes
    from pytest_envpar.drift.model import Change, Comparison
    from pytest_envpar.drift.routes import Force
    from pytest_envpar.drift.sides import Side
    from pytest_envpar.engine.api import Engine

pytestmark = pytest.mark.engine

_CAPS = ("MKNOD", "SETFCAP", "CHOWN", "FOWNER", "DAC_OVERRIDE")


@dataclasses.dataclass(frozen=True)
class Planted:
    """Two images that differ by one layer, and the running container that the second was made of."""

    left: str
    right: str
    container: str


@pytest.fixture(scope="module")
def pair(engine: Engine, base_image: str, run_labels: Mapping[str, str]) -> Iterator[Planted]:
    made: list[str] = []
    images: list[str] = []
    name = f"envpar-test-drift-{secrets.token_hex(4)}"
    try:
        image = base_image
        for step, make in (("left", planted.before), ("right", planted.after)):
            spec = ContainerSpec(
                image=image,
                command=("sleep", "600"),
                labels=run_labels,
                network="none",
                cap_add=_CAPS,
                user="0",
            )
            container = engine.create_container(spec)
            made.append(container)
            engine.start(container)
            result = engine.exec(container, planted.program(make))
            assert result.exit_code == 0, result.stderr.decode()
            image = engine.commit(container, f"{name}:{step}", labels=run_labels)
            images.append(image)
        result = engine.exec(made[1], planted.program(planted.later))
        assert result.exit_code == 0, result.stderr.decode()
        yield Planted(images[0], images[1], made[1])
    finally:
        for container in made:
            engine.remove_container(container)
        for image in reversed(images):
            engine.remove_image(image, force=True)


def comparable(changes: tuple[Change, ...]) -> list[Change]:
    """Without times, which a route may know only to the second."""

    def plain(entry: Any) -> Any:
        return None if entry is None else dataclasses.replace(entry, mtime_ns=0)

    return [
        dataclasses.replace(change, before=plain(change.before), after=plain(change.after))
        for change in changes
    ]


Expected = dict[str, tuple[str, ...]]


def in_images(engine: Engine) -> Expected:
    """What differs between the two images."""
    return {**planted.EXPECTED, **(planted.ATTRIBUTE if engine.info.kind == "podman" else {})}


def in_container(engine: Engine, *, exported: bool = False) -> Expected:
    """What differs between the left image and the container."""
    if not exported:
        return {**planted.EXPECTED, **planted.LATER}
    kept = {path: told for path, told in planted.LATER.items() if path != "/plant/socket"}
    return {**planted.EXPECTED, **(kept if engine.info.kind == "podman" else {})}


def check(found: Comparison, expected: Expected) -> None:
    told = {change.path: (change.kind, *change.attributes) for change in found.changes}
    for path in ("/plant/replaced", "/plant/type-dir", "/plant/type-link"):
        assert "type" in told[path]
        told[path] = ("modified", "type")
    assert told == expected
    assert [change.path for change in found.changes] == sorted(told, key=sort_key)


@pytest.fixture(scope="module")
def answer(engine: Engine, pair: Planted) -> Comparison:
    """What scanning both sides says, which needs nothing but a Python inside."""
    return compare_sides(image_side(engine, pair.left), image_side(engine, pair.right), force="scan")


@pytest.fixture(scope="module")
def own_answer(engine: Engine, pair: Planted) -> Comparison:
    """The same of the container and the left image."""
    return compare_sides(image_side(engine, pair.left), container_side(engine, pair.container), force="scan")


def test_the_answer_is_what_was_planted(engine: Engine, answer: Comparison, own_answer: Comparison) -> None:
    assert (answer.route, own_answer.route) == ("scan", "scan")
    check(answer, in_images(engine))
    check(own_answer, in_container(engine))
    assert answer.not_compared == own_answer.not_compared == ()


@pytest.fixture
def force(request: pytest.FixtureRequest) -> Force | None:
    """The route; layers are read in their folders, which an engine of another machine has there."""
    if request.param == "layers":
        request.getfixturevalue("sees_files")
    route: Force | None = request.param
    return route


@pytest.mark.parametrize("force", ["layers", "scan", "export", None], indirect=True)
def test_two_images(engine: Engine, pair: Planted, answer: Comparison, force: Force | None) -> None:
    store = MemoryStore()
    left, right = image_side(engine, pair.left), image_side(engine, pair.right)
    found = compare_sides(left, right, store, force=force)
    check(found, in_images(engine))
    assert comparable(found.changes) == comparable(answer.changes)
    left_out = force == "export" and engine.info.kind == "docker"
    assert [(each.path, each.reason) for each in found.not_compared] == (
        [("/", "extended attributes other than capabilities are not in an engine's tar")] if left_out else []
    )
    assert found.route == (force or ("layers" if engine.info.local else "scan"))
    kept = compare_sides(left, right, store, force=force)
    assert kept.changes == found.changes
    if force == "scan":
        assert any(line.startswith("only folders that may differ were listed") for line in found.why)
        # No more of them was listed than what their one layer has, and that is known of both now.
        assert [len(data) < 20_000 for data in store.kept.values()] == [True, True]
        for image in (pair.left, pair.right):
            assert f"{image}: its inodes are known from before" in kept.why
    back = compare_sides(right, left, store, force=force)
    kinds = {"added": "removed", "removed": "added", "modified": "modified"}
    assert [(change.path, kinds[change.kind]) for change in back.changes] == [
        (change.path, change.kind) for change in found.changes
    ]


@pytest.mark.parametrize("mounted", ["right", "both"])
def test_an_image_that_cannot_be_scanned_from_inside_is_mounted(
    engine: Engine, pair: Planted, answer: Comparison, mounted: str
) -> None:
    sides = [image_side(engine, image) for image in (pair.left, pair.right)]
    for at in {"right": (1,), "both": (0, 1)}[mounted]:
        config = sides[at].config
        assert config is not None
        sides[at] = dataclasses.replace(sides[at], config=dataclasses.replace(config, volumes=("/plant",)))
    left, right = sides
    if engine.info.image_mounts:
        found = compare_sides(left, right, force="scan")
        assert comparable(found.changes) == comparable(answer.changes)
        assert found.not_compared == ()
        assert any(line.startswith("only folders that may differ were listed") for line in found.why)
    else:
        with contextlib.ExitStack() as stack, pytest.raises(NoWayError, match="declares volumes"):
            Scanners({}, stack).of(right)


@pytest.mark.parametrize("force", ["layers", "export", None], indirect=True)
def test_a_running_container_and_its_image(
    engine: Engine, pair: Planted, own_answer: Comparison, force: Force | None
) -> None:
    left, right = image_side(engine, pair.left), container_side(engine, pair.container)
    found = compare_sides(left, right, force=force)
    expected = in_container(engine, exported=force == "export")
    check(found, expected)
    assert comparable(found.changes) == [
        change for change in comparable(own_answer.changes) if change.path in expected
    ]
    assert [each.path for each in found.not_compared] == (["/"] if force == "export" else [])
    if force is None:
        assert found.route == ("upper" if engine.info.local else "scan")


def test_what_is_too_much_to_be_held_is_listed_as_it_comes(
    engine: Engine, pair: Planted, answer: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_envpar.drift.narrowed._MOST", 25)
    found = compare_sides(image_side(engine, pair.left), image_side(engine, pair.right), force="scan")
    assert any(line.startswith("all of both was listed: more than 25") for line in found.why)
    assert found.changes == answer.changes


@pytest.mark.parametrize("locked_down", [False, True], ids=["open", "locked-down"])
def test_a_running_container_elsewhere(
    elsewhere: Engine, pair: Planted, own_answer: Comparison, locked_down: bool
) -> None:
    left, right = image_side(elsewhere, pair.left), container_side(elsewhere, pair.container)
    if locked_down:
        # Then it is looked at from beside.
        assert right.container is not None
        right = dataclasses.replace(right, container=dataclasses.replace(right.container, cap_drop=("ALL",)))
    store = MemoryStore()
    cold = compare_sides(left, right, store)
    assert cold.route == "scan"
    assert comparable(cold.changes) == comparable(own_answer.changes)
    assert f"{pair.left}: scanned inside a container" in cold.why
    # Of the image everything is known that it takes: it is not asked again.
    warm = compare_sides(left, right, store)
    assert warm.changes == cold.changes
    assert f"{pair.left}: its inodes are known from before" in warm.why
    back = compare_sides(right, left, store)
    assert [change.path for change in back.changes] == [change.path for change in cold.changes]


def left(found: Changes) -> dict[str, tuple[str, ...]]:
    return {str(each.path): (each.kind, *each.attributes) for each in (*found.items, *found.noise)}


def test_what_a_container_changed_is_told_alike_here_and_elsewhere(
    engine: Engine, elsewhere: Engine, pair: Planted
) -> None:
    here = left(left_behind(engine, pair.container))
    assert here == left(left_behind(elsewhere, pair.container))
    told = in_container(engine)
    gone = tuple(f"{path}/" for path in ("/plant/gone", "/plant/again/old", "/plant/replaced"))
    expected = {
        path: what
        for path, what in told.items()
        if not path.startswith(gone) and what != ("modified", "hardlink")
    }
    # A file that lost a name of its own, or got one, is another one as well, and no other file.
    assert here.keys() == expected.keys()
    for path, what in expected.items():
        assert set(what) <= set(here[path])


@pytest.mark.parametrize("looked_at", [200, 0])
def test_what_a_container_that_has_ended_changed(
    engine: Engine,
    elsewhere: Engine,
    create: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    looked_at: int,
) -> None:
    work = "echo x >>/etc/debian_version; chmod 600 /etc/issue; chown 7 /etc/issue; echo x >/etc/new"
    container = create("sh", "-c", work, user="0")
    engine.start(container)
    engine.wait(container, timeout_s=60)
    here = left(left_behind(engine, container))
    assert here == {
        "/etc/debian_version": ("modified", "content"),
        "/etc/issue": ("modified", "mode", "owner"),
        "/etc/new": ("added",),
    }
    monkeypatch.setattr("pytest_envpar.drift.elsewhere.MAX_LOOKED_AT", looked_at)
    there = left(left_behind(elsewhere, container))
    if not looked_at:
        # What is beyond the number is told without what differs.
        assert there == {path: told[:1] for path, told in here.items()}
    elif engine.info.kind == "podman":
        # It does not give the owners of files.
        assert there == {**here, "/etc/issue": ("modified", "mode")}
    else:
        assert there == here


@DOCKER_FIRST
def test_what_was_known_of_an_image_is_of_no_use_when_it_was_pulled_again(
    elsewhere: Engine, pair: Planted, own_answer: Comparison
) -> None:
    left, right = image_side(elsewhere, pair.left), container_side(elsewhere, pair.container)
    store = MemoryStore()
    compare_sides(left, right, store)
    [(key, data)] = [(key, data) for key, data in store.kept.items() if key[1] == "stat"]
    for known in (moved(data), data[: len(data) // 2]):
        store.kept[key] = known
        found = compare_sides(left, right, store)
        assert comparable(found.changes) == comparable(own_answer.changes)
        assert any("of no use any more" in line for line in found.why)
        assert store.kept[key] != known


@pytest.mark.slow
def test_whole_trees_without_layers_in_common(engine: Engine, pair: Planted, answer: Comparison) -> None:
    # One side by an export, the other by its layers: no route in common.
    left, right = image_side(engine, pair.left), image_side(engine, pair.right)
    store = MemoryStore()
    compare_sides(left, right, store, force="export")
    bare = dataclasses.replace(right, diff_ids=())
    found = compare_sides(left, bare, store)
    assert found.route == "scan"
    assert comparable(found.changes) == comparable(answer.changes)


def moved(table: bytes) -> bytes:
    """A table in which every inode is another."""
    start = table.index(b"\n") + 1
    raw = zlib.decompress(table[start:])
    others = re.sub(
        rb"(:\d{15,})(\d)\0", lambda found: found[1] + (b"2" if found[2] == b"1" else b"1") + b"\0", raw
    )
    return table[:start] + zlib.compress(others)


def _saved(engine: Engine, image: str, file: Path) -> Side:
    # Only a user has an image as a file; the engine ring makes one through the client's own request.
    response = cast("Any", engine)._request("GET", f"/images/{image}/get", timeout_s=None)
    with file.open("wb") as opened:
        opened.writelines(response.chunks())
    return archive_side(file)


@pytest.mark.slow
def test_saved_images(engine: Engine, pair: Planted, answer: Comparison, tmp_path: Path) -> None:
    left, right = (
        _saved(engine, pair.left, tmp_path / "left.tar"),
        _saved(engine, pair.right, tmp_path / "right.tar"),
    )
    image = engine.inspect_image(pair.left)
    assert image is not None
    assert left.diff_ids == image.layers
    found = compare_sides(left, right)
    assert found.route == "archive"
    check(found, in_images(engine))
    assert found.not_compared == ()
    assert comparable(found.changes) == comparable(answer.changes)
    # The same image on an engine.
    same = compare_sides(left, image_side(engine, pair.left), force="layers")
    assert same.changes == ()
    mixed = compare_sides(left, image_side(engine, pair.right))
    assert comparable(mixed.changes) == comparable(answer.changes)


def test_an_exported_container(engine: Engine, pair: Planted, answer: Comparison, tmp_path: Path) -> None:
    file = tmp_path / "root.tar"
    with file.open("wb") as opened:
        opened.writelines(engine.export(pair.container))
    found = compare_sides(image_side(engine, pair.left), archive_side(file))
    assert found.route == "archive"
    check(found, planted.EXPECTED)
    assert comparable(found.changes) == [
        change for change in comparable(answer.changes) if change.path in planted.EXPECTED
    ]
    assert [each.path for each in found.not_compared] == ["/"]


def test_the_same_image_costs_nothing(engine: Engine, pair: Planted) -> None:
    side = image_side(engine, pair.left)
    found = compare_sides(side, image_side(engine, pair.left))
    assert (found.route, found.changes, found.config) == ("same-image", (), ())


@pytest.mark.slow
def test_times_on_request(engine: Engine, pair: Planted) -> None:
    left, right = image_side(engine, pair.left), image_side(engine, pair.right)
    forces: tuple[Force, ...] = ("layers", "scan", "export")
    for force in forces if engine.info.local else forces[1:]:
        found = compare_sides(left, right, force=force, mtime=True)
        told = {change.path: change.attributes for change in found.changes}
        assert told["/plant/touched"] == ("mtime",)
