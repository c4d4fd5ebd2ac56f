"""Comparisons where ways are closed: no folder to read, no Python inside, no rights, and what is mounted."""

from __future__ import annotations

import contextlib
import io
import secrets
import tarfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.drift import secret
from pytest_envpar.drift.model import ConfigChange
from pytest_envpar.drift.produce import MemoryStore
from pytest_envpar.drift.routes import compare_sides
from pytest_envpar.drift.scanners import Scanners
from pytest_envpar.drift.sides import container_side, image_side
from pytest_envpar.engine.values.create import Mount
from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_envpar.engine.api import Engine

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def bare(engine: Engine) -> Iterator[tuple[str, str]]:
    """Two images without any program."""
    made = []
    mark = secrets.token_hex(6)
    for content in (b"1", b"2"):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name, data in (
                (
                    "Dockerfile",
                    b"FROM scratch\nLABEL bare=%s\nENV A=%s\nCOPY f /etc/f\n" % (mark.encode(), content),
                ),
                ("f", content),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        tag = f"envpar-test-drift-bare-{secrets.token_hex(4)}"
        made.append(engine.build([out.getvalue()], dockerfile="Dockerfile", tag=f"{tag}:1"))
    yield made[0], made[1]
    # Podman keeps the steps of a build as images, of which only the last can go: all have the label of the first.
    while left := {each.id for each in engine.list_images({"bare": mark})}:
        for image in left:
            with contextlib.suppress(EngineError):
                engine.remove_image(image, force=True)
        assert {each.id for each in engine.list_images({"bare": mark})} < left


def told(found: Any) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(change.path, change.kind, change.attributes) for change in found.changes]


def test_images_without_a_program(engine: Engine, elsewhere: Engine, bare: tuple[str, str]) -> None:
    here = compare_sides(image_side(engine, bare[0]), image_side(engine, bare[1]))
    there = compare_sides(image_side(elsewhere, bare[0]), image_side(elsewhere, bare[1]))
    assert (here.route, there.route) == ("layers" if engine.info.local else "export", "export")
    assert told(here) == told(there) == [("/etc/f", "modified", ("content",))]
    assert here.config == there.config
    assert [(change.field, change.before, change.after) for change in here.config] == [("env.A", "1", "2")]
    assert any("no Python" in line for line in there.why)


def test_a_locked_down_container_elsewhere(
    engine: Engine,
    elsewhere: Engine,
    base_image: str,
    create: Callable[..., str],
    volume: Callable[..., tuple[str, str]],
) -> None:
    name, _ = volume()
    container = create(
        *("sh", "-c", "echo x >/tmp/seen-by-nobody; echo x >/data/x; echo ready; exec sleep 600"),
        user="0",
        read_only=True,
        cap_drop=("ALL",),
        tmpfs={"/tmp": ""},
        mounts=(Mount("volume", name, PurePosixPath("/data")),),
    )
    engine.start(container)
    engine.exec(container, ["sh", "-c", "until [ -e /data/x ]; do :; done"])
    for side in (container_side(elsewhere, container), container_side(engine, container)):
        found = compare_sides(image_side(side.engine or engine, base_image), side)
        assert told(found) == []
        assert {(each.path, each.reason) for each in found.not_compared} >= {
            ("/data", "a volume is mounted there"),
            ("/tmp", "a tmpfs is mounted there"),
        }
    found = compare_sides(image_side(elsewhere, base_image), container_side(elsewhere, container))
    assert found.route == "scan"


def test_a_container_of_another_user_elsewhere(
    engine: Engine, elsewhere: Engine, base_image: str, create: Callable[..., str]
) -> None:
    container = create("sleep", "600", user="1000:1000")
    engine.start(container)
    made = engine.exec(
        container,
        [
            "sh",
            "-c",
            "echo x >/etc/own && chmod 0 /etc/own && echo y >>/etc/debian_version && mkfifo /etc/pipe",
        ],
        user="0",
    )
    assert made.exit_code == 0
    store = MemoryStore()
    image = image_side(elsewhere, base_image)
    found = compare_sides(image, container_side(elsewhere, container), store)
    expected = [
        ("/etc/debian_version", "modified", ("content",)),
        ("/etc/own", "added", ()),
        ("/etc/pipe", "added", ()),
    ]
    ours = [
        each for each in told(found) if each[0] not in ("/etc/passwd", "/etc/group")
    ]  # which Podman writes
    assert ours == expected
    assert found.route == "scan"
    changed = next(change for change in found.changes if change.path == "/etc/own")
    assert changed.after is not None
    assert (changed.after.mode, changed.after.size, len(changed.after.digest)) == (0, 2, 64)
    here = compare_sides(image_side(engine, base_image), container_side(engine, container), store)
    assert here.route == "upper"
    assert [(c.path, c.attributes, c.after and c.after.digest) for c in here.changes] == [
        (c.path, c.attributes, c.after and c.after.digest) for c in found.changes
    ]


def test_a_container_that_has_ended(
    engine: Engine, elsewhere: Engine, base_image: str, create: Callable[..., str]
) -> None:
    container = create("sh", "-c", "echo x >/etc/own; rm /etc/debian_version")
    engine.start(container)
    engine.wait(container, timeout_s=60)
    for each, route in ((engine, "upper"), (elsewhere, "export")):
        found = compare_sides(image_side(each, base_image), container_side(each, container))
        assert told(found) == [("/etc/debian_version", "removed", ()), ("/etc/own", "added", ())]
        assert found.route == route


def test_what_processes_feel_in_two_containers(engine: Engine, create: Callable[..., str]) -> None:
    # Podman may not set limits on every machine.
    low, high = ({"ulimits": {"nofile": n}} if engine.info.kind == "docker" else {} for n in (900, 1000))
    one = create("sleep", "600", env={"LANG": "C.UTF-8"}, **high)
    two = create(
        *("sh", "-c", "export LATE=1 API_TOKEN=hunter2; exec sleep 600"),
        env={"LANG": "de_DE.UTF-8", "TZ": "XYZ-3", "PATH": "/usr/bin:/bin:/nowhere"},
        memory_bytes=256 << 20,
        **low,
    )
    for container in (one, two):
        engine.start(container)
    found = compare_sides(container_side(engine, one), container_side(engine, two))
    told = {change.field: (change.before, change.after) for change in found.config}
    if low:
        assert told["limits.nofile"] == ("1000:1000", "900:900")
    assert told["timezone"] == ("UTC UTC +0", "XYZ XYZ +10800")
    assert told["locale"] == ("C.UTF-8, UTF-8", "de_DE.UTF-8 (unsupported locale setting)")
    assert told["path.02"][1] == "/nowhere: is not there"
    assert told["env.TZ"] == (None, "XYZ-3")
    # What the first process was given on the way, and where its group ends.
    assert told["process.env.LATE"] == (None, "1")
    assert "process.env.TZ" not in told
    assert told["limits.container.memory"] == ("unlimited", str(256 << 20))
    assert secret.shown(ConfigChange("process.env.API_TOKEN", *told["process.env.API_TOKEN"])).after == (
        secret.NOT_SHOWN
    )
    assert "kernel" not in told
    same = compare_sides(container_side(engine, one), container_side(engine, one))
    assert same.config == ()


def test_what_two_containers_changed_in_the_same_tick_of_the_clock_is_read(
    elsewhere: Engine, base_image: str, create: Callable[..., str]
) -> None:
    sides = []
    for mark in "ab":
        # Written in place, and as long as before: what is left to tell them apart is the time.
        script = f"printf {mark} 1<>/etc/debian_version; echo >/tmp/changed; exec sleep 600"
        container = create("sh", "-c", script, user="0")
        elsewhere.start(container)
        changed = ["sh", "-c", "until [ -e /tmp/changed ]; do sleep 0.1; done"]
        elsewhere.exec(container, changed, timeout_s=120)
        sides.append(container_side(elsewhere, container))
    with contextlib.ExitStack() as stack:
        for side in sides:
            scanner = Scanners({}, stack).of(side)
            idents = {row[0]: row[8] for frame in scanner.frames(()) for row in scanner.parsed(frame)}
            assert idents["/etc/debian_version"].count(":") == 2
            assert idents["/etc/passwd" if elsewhere.info.kind == "docker" else "/etc/issue"].count(":") == 1
    found = compare_sides(sides[0], sides[1])
    assert found.route == "scan"
    assert told(found) == [("/etc/debian_version", "modified", ("content",))]


CHURN = """
import itertools, os, shutil
os.makedirs("/tmp/churn")
open("/tmp/churn/ready", "w").close()
for number in itertools.count():
    place = f"/tmp/churn/{number % 7}"
    if os.path.islink(place) or not os.path.isdir(place):
        os.path.lexists(place) and os.unlink(place)
    else:
        shutil.rmtree(place)
    kind = number % 5
    if kind == 0:
        os.mkfifo(place)
    elif kind == 1:
        os.makedirs(place + "/deeper/still")
        open(place + "/deeper/still/file", "w").close()
    elif kind == 2:
        os.symlink("/proc/self/root/etc", place)
    elif kind == 3:
        os.mkdir(place, 0o700)
    else:
        with open(place, "wb") as file:
            for piece in range(20):
                file.write(b"x" * 10_000 * (number % 3))
    with open("/tmp/churn/growing", "ab") as file:
        file.write(b"more")
        file.truncate(len(place) * 9000)
"""


@pytest.mark.parametrize("locked_down", [False, True], ids=["open", "locked-down"])
def test_a_container_that_changes_its_files_all_the_time(
    engine: Engine, elsewhere: Engine, base_image: str, create: Callable[..., str], locked_down: bool
) -> None:
    container = create("python3", "-c", CHURN, user="0", cap_drop=("ALL",) if locked_down else ())
    engine.start(container)
    engine.exec(container, ["sh", "-c", "until [ -e /tmp/churn/ready ]; do :; done"])
    store = MemoryStore()
    for side, route in ((elsewhere, "scan"), (elsewhere, "scan"), (engine, "upper")):
        found = compare_sides(image_side(side, base_image), container_side(side, container), store)
        assert found.route == route
        paths = {change.path for change in found.changes}
        assert "/tmp/churn" in paths
        # Nothing but what is written to, whatever it was at that moment.
        assert all(path.startswith("/tmp/churn") for path in paths)
        assert all(each.path.startswith("/tmp/churn/") for each in found.not_compared)
    assert engine.inspect_container(container).running


def test_nothing_of_ours_stays(
    engine: Engine, elsewhere: Engine, base_image: str, run_labels: Mapping[str, str]
) -> None:
    labels = {**run_labels, "org.pytest-envpar.test": secrets.token_hex(6)}
    compare_sides(
        image_side(elsewhere, base_image), image_side(engine, base_image), force="scan", labels=labels
    )
    assert engine.list_containers(labels) == ()


def test_a_container_without_python_borrows_that_of_the_other_side(
    engine: Engine,
    elsewhere: Engine,
    base_image: str,
    create: Callable[..., str],
    run_labels: Mapping[str, str],
) -> None:
    pythons = ("/usr/bin/python3", "/usr/local/bin/python3")
    maker = create("sh", "-c", f"rm -f {' '.join(pythons)}", user="0")
    engine.start(maker)
    engine.wait(maker, timeout_s=60)
    tag = f"envpar-test-drift-no-python-{secrets.token_hex(4)}:1"
    with contextlib.ExitStack() as stack:
        image = engine.commit(maker, tag, labels=run_labels)
        stack.callback(engine.remove_image, image, force=True)
        script = "umask 777; echo x >/tmp/made; mv /tmp/made /tmp/own; exec sleep 600"
        container = create("sh", "-c", script, image=image, user="1000:1000")
        stack.callback(engine.remove_container, container)
        engine.start(container)
        engine.exec(container, ["sh", "-c", "until [ -e /tmp/own ]; do :; done"])
        left, right = image_side(elsewhere, base_image), container_side(elsewhere, container)
        found = compare_sides(left, right)
        assert found.route == "scan", found.why
        gone = [each for each in told(found) if each[1] == "removed"]
        assert gone
        assert {each[0] for each in gone} <= set(pythons)
        # Podman writes the user of a container there.
        rest = [
            each for each in told(found) if each not in gone and each[0] not in ("/etc/passwd", "/etc/group")
        ]
        assert rest == [("/tmp/own", "added", ())]
        own = next(change.after for change in found.changes if change.path == "/tmp/own")
        assert own is not None
        assert (own.mode, own.size, len(own.digest)) == (0, 2, 64)


def test_what_is_kept_of_an_image_does_not_depend_on_the_other_side(
    elsewhere: Engine,
    base_image: str,
    create: Callable[..., str],
    volume: Callable[..., tuple[str, str]],
    run_labels: Mapping[str, str],
) -> None:
    maker = create("sh", "-c", "mkdir /data; echo 1 >/data/x", user="0")
    elsewhere.start(maker)
    elsewhere.wait(maker, timeout_s=60)
    image = elsewhere.commit(maker, f"envpar-test-drift-kept-{secrets.token_hex(4)}:1", labels=run_labels)
    try:
        name, _ = volume()
        # It never runs, so that the image is looked at whole, for itself.
        container = create("true", mounts=(Mount("volume", name, PurePosixPath("/data")),))
        store = MemoryStore()
        first = compare_sides(image_side(elsewhere, image), container_side(elsewhere, container), store)
        assert [(each.path, each.reason) for each in first.not_compared if each.path != "/"] == [
            ("/data", "a volume is mounted there")
        ]
        found = compare_sides(image_side(elsewhere, image), image_side(elsewhere, base_image), store)
        assert ("/data/x", "removed", ()) in told(found)
    finally:
        elsewhere.remove_image(image, force=True)
