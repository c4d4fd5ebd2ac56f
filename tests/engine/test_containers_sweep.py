"""Leftovers of dead runs go; what lives, is elsewhere or is a cache stays. Artifacts come back from real containers."""

from __future__ import annotations

import dataclasses
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.config.model import Stage
from pytest_envpar.containers.artifacts import collect
from pytest_envpar.containers.labels import CACHE, KIND, RUN, Owner
from pytest_envpar.containers.lifecycle import start_container
from pytest_envpar.containers.source import PathFacts, plan_source
from pytest_envpar.containers.sweep import Swept, list_ours, prune, sweep
from pytest_envpar.drift.changes import left_behind
from pytest_envpar.drift.render import summary_line
from pytest_envpar.engine.values.create import ContainerSpec
from pytest_envpar.images.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_envpar.config.model import Source
    from pytest_envpar.engine.api import Engine

pytestmark = pytest.mark.engine

_LIMIT_S = 60.0


@pytest.fixture
def live(run_labels: Mapping[str, str]) -> Owner:
    return Owner.current(Path("/data/proj"), run=run_labels[RUN])


@pytest.fixture
def dead(live: Owner) -> Owner:
    """An owner of this host whose process ended: another user's, as runs that go on meanwhile sweep what is ours."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return dataclasses.replace(live, pid=process.pid, pid_start=1, uid=os.getuid() + 1)


class Objects:
    """Makes one container and one volume for an owner, and removes what is left after the test."""

    def __init__(self, engine: Engine, image: str) -> None:
        self.engine, self.image = engine, image
        self.containers: list[str] = []
        self.volumes: list[str] = []

    def make(self, labels: Mapping[str, str]) -> set[str]:
        name = f"envpar-test-{secrets.token_hex(6)}"
        spec = ContainerSpec(image=self.image, command=("true",), labels=labels, name=name, network="none")
        self.containers.append(self.engine.create_container(spec))
        self.engine.create_volume(name, labels=labels)
        self.volumes.append(name)
        return {f"container {name}", f"volume {name}"}

    def there(self) -> set[str]:
        mine = {*self.volumes}
        return {f"{ours.type} {ours.name}" for ours in list_ours(self.engine) if ours.name in mine}

    def close(self) -> None:
        for container in self.containers:
            self.engine.remove_container(container)
        for volume in self.volumes:
            self.engine.remove_volume(volume)


@pytest.fixture
def objects(engine: Engine, base_image: str) -> Iterator[Objects]:
    made = Objects(engine, base_image)
    yield made
    made.close()


def removed(swept: Swept) -> set[str]:
    return {f"{ours.type} {ours.name}" for ours in swept.removed}


def test_only_what_a_dead_run_left_is_swept(
    engine: Engine, objects: Objects, live: Owner, dead: Owner
) -> None:
    gone = objects.make(dead.labels("run", "qa"))
    kept = objects.make(live.labels("run"))
    kept |= objects.make(dataclasses.replace(dead, host="elsewhere").labels("run"))
    kept |= objects.make(dataclasses.replace(dead, pid_namespace="pid:[1]").labels("run"))
    cache = objects.make(dead.labels("cache"))
    swept = sweep(engine)
    assert objects.there() == kept | cache
    assert removed(swept) & (gone | kept | cache) == gone


def test_a_kill_9_is_cleaned_up_by_the_next_run(engine: Engine, objects: Objects, live: Owner) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
    left = objects.make(dataclasses.replace(live, pid=process.pid, pid_start=start).labels("run"))
    sweep(engine)
    assert objects.there() == left
    process.send_signal(signal.SIGKILL)
    process.communicate()
    sweep(engine)
    assert not objects.there()


def test_other_users_leftovers_can_be_left_alone(engine: Engine, objects: Objects, dead: Owner) -> None:
    other = objects.make(dead.labels("run"))
    sweep(engine, everything_dead=False)
    assert objects.there() == other
    sweep(engine)
    assert not objects.there()


def test_the_listing_says_what_is_what(engine: Engine, objects: Objects, live: Owner, dead: Owner) -> None:
    objects.make(dead.labels("run", "qa"))
    objects.make(live.labels("probe", "dev"))
    objects.make(live.labels("cache"))
    mine = [ours for ours in list_ours(engine) if ours.name in objects.volumes]
    told = {(ours.type, ours.kind, ours.state, ours.stage, ours.project) for ours in mine}
    assert told == {
        (type_, kind, state, stage, "/data/proj")
        for type_ in ("container", "volume")
        for kind, state, stage in (("run", "dead", "qa"), ("probe", "live", "dev"), (CACHE, "cache", ""))
    }
    assert {ours.owner for ours in mine if ours.state == "dead"} == {dead}


def test_prune_takes_caches_only_if_asked(
    engine: Engine, objects: Objects, live: Owner, dead: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pruned for real, but only what this test made: the machine's other caches are in use.
    import pytest_envpar.containers.sweep as module

    everything = module.list_ours
    monkeypatch.setattr(
        module, "list_ours", lambda e: tuple(ours for ours in everything(e) if ours.name in objects.volumes)
    )
    gone = objects.make(dead.labels("run"))
    cache = objects.make(live.labels("cache"))
    kept = objects.make(live.labels("run"))
    assert removed(prune(engine)) == gone
    assert removed(prune(engine, cache=True)) == cache
    assert objects.there() == kept


def test_an_overlay_of_a_dead_run_goes_whole(
    engine: Engine, base_image: str, dead: Owner, tmp_path: Path
) -> None:
    stage = Stage("qa", image=base_image, network="none")
    plan = plan_source(engine.info, PathFacts(), "overlay", tmp_path)
    container = start_container(
        engine, resolve(engine, stage, tmp_path), stage, owner=dead, command=["sleep", "60"], source_plan=plan
    )
    swept = sweep(engine)
    assert not [failure for failure in swept.failed if failure[0].run == dead.run]
    assert "container" in {ours.type for ours in swept.removed if ours.run == dead.run}
    assert not [ours for ours in list_ours(engine) if ours.run == dead.run and ours.state == "dead"]
    container.remove()


@pytest.mark.parametrize(
    ("running", "mode"), [(True, "overlay"), (True, "copy"), (False, "overlay"), (False, "copy")]
)
def test_artifacts_and_leftovers_of_a_real_container(
    engine: Engine, base_image: str, live: Owner, tmp_path: Path, mode: Source, running: bool
) -> None:
    if engine.info.kind == "podman" and mode == "overlay" and not running:
        running = True  # Podman drops an overlay when its container ends: there is nothing to collect later
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/old.xml").write_text("as it was")
    before = (tmp_path / "reports/old.xml").stat()
    stage = Stage("qa", image=base_image, network="none")
    plan = plan_source(engine.info, PathFacts(), mode, tmp_path)
    script = """
    mkdir -p reports/deep; echo new > reports/new.xml; echo deep > reports/deep/größe.xml; echo no > other.xml
    ln -s /etc/passwd reports/link; mkfifo reports/pipe; rm /etc/debian_version; echo >> /etc/issue
    mkdir -p /opt/made; echo x > /opt/made/x; mkdir -p /usr/lib/__pycache__; echo > /usr/lib/__pycache__/a.pyc
    echo done; """ + ("read x" if running else "true")
    with start_container(
        engine,
        resolve(engine, stage, tmp_path),
        stage,
        owner=live,
        command=["/bin/sh", "-c", script],
        source_plan=plan,
    ) as container:
        said = b""
        while b"done" not in said:
            piece = container.stream.read(_LIMIT_S)
            assert piece is not None
            assert piece[0], said
            said += piece[1]
        if not running:
            engine.wait(container.id, timeout_s=_LIMIT_S)
        found = collect(engine, container.id, plan.container_root, ["reports/**", "none/**"], tmp_path)
        changes = left_behind(engine, container.id, hidden=container.mount_points())
    assert [path.relative_to(tmp_path) for path in found] == [
        Path("reports/deep/größe.xml"),
        Path("reports/new.xml"),
    ]
    assert (tmp_path / "reports/deep/größe.xml").read_text() == "deep\n"
    after = (tmp_path / "reports/old.xml").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not (tmp_path / "other.xml").exists()
    assert [(change.kind, change.path) for change in changes] == [
        ("removed", PurePosixPath("/etc/debian_version")),
        ("modified", PurePosixPath("/etc/issue")),
        ("added", PurePosixPath("/opt/made")),
        ("added", PurePosixPath("/opt/made/x")),
    ]
    assert summary_line(changes) == (
        "drift: suite left 4 changes in the container:"
        " - /etc/debian_version, ~ /etc/issue, + /opt/made, … 1 more (and 1 bytecode file)"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_a_users_number_that_the_image_does_not_know_is_no_drift(
    engine: Engine, base_image: str, live: Owner, tmp_path: Path
) -> None:
    stage = Stage("qa", image=base_image, network="none", user="12345:12345")
    plan = plan_source(engine.info, PathFacts(uid=12345, gid=12345), "copy", tmp_path)
    image = resolve(engine, stage, tmp_path)
    with start_container(engine, image, stage, owner=live, command=["true"], source_plan=plan) as container:
        engine.wait(container.id, timeout_s=_LIMIT_S)
        assert not left_behind(engine, container.id, hidden=container.mount_points())


def test_labels_are_on_everything(engine: Engine, base_image: str, live: Owner, tmp_path: Path) -> None:
    stage = Stage("qa", image=base_image, network="none")
    plan = plan_source(engine.info, PathFacts(), None, tmp_path)
    image = resolve(engine, stage, tmp_path)
    with start_container(engine, image, stage, owner=live, command=["true"], source_plan=plan) as container:
        made = [ours for ours in list_ours(engine) if ours.name.startswith(container.name)]
        assert {ours.owner for ours in made} == {live}
        assert {ours.stage for ours in made} == {"qa"}
        assert container.inspect().labels[KIND] == "run"
