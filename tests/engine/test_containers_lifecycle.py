"""Containers of a stage on real engines: sources, keys, refusals, and nothing left behind."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.config.model import Stage
from pytest_envpar.containers.labels import RUN, Owner
from pytest_envpar.containers.lifecycle import RunningContainer, container_name, start_container
from pytest_envpar.containers.source import PathFacts, plan_source
from pytest_envpar.containers.sweep import list_ours
from pytest_envpar.engine.values.create import Mount
from pytest_envpar.errors import ConflictError, EngineError, NotFoundError, StageError
from pytest_envpar.images import tarstream
from pytest_envpar.images.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_envpar.config.model import Source
    from pytest_envpar.engine.api import Engine

pytestmark = pytest.mark.engine

_LIMIT_S = 60.0
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "pro ject"
    (made / "sub").mkdir(parents=True)
    (made / "file").write_text("host")
    (made / "sub/inner").write_text("inner")
    (made / "link").symlink_to("file")
    return made


@pytest.fixture
def owner(root: Path, run_labels: Mapping[str, str]) -> Owner:
    return Owner.current(root, run=run_labels[RUN])


def give(root: Path, uid: int) -> None:
    for path in (root, *root.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)


def left(engine: Engine, owner: Owner) -> list[str]:
    return [ours.name for ours in list_ours(engine) if ours.run == owner.run]


def output(container: RunningContainer) -> str:
    pieces: list[bytes] = []
    while True:
        piece = container.stream.read(_LIMIT_S)
        assert piece is not None, pieces
        if piece[0] == 0:
            return b"".join(pieces).decode()
        pieces.append(piece[1])


@pytest.fixture
def start(engine: Engine, base_image: str, owner: Owner) -> Iterator[Callable[..., RunningContainer]]:
    """``start(script, **stage keys)``: a container of a stage that runs a shell script."""

    made: list[RunningContainer] = []

    def run(
        script: str, *, plan: Any = None, options: Mapping[str, Any] | None = None, **keys: Any
    ) -> RunningContainer:
        stage = Stage("qa", image=base_image, **{"network": "none", **keys})
        image = resolve(engine, stage, Path("/"))
        command = ["/bin/sh", "-c", script]
        container = start_container(
            engine, image, stage, owner=owner, command=command, source_plan=plan, **(options or {})
        )
        made.append(container)
        return container

    yield run
    for container in made:
        container.remove()


MODES: list[tuple[Source, int, bool]] = [
    ("overlay", 0, False),
    ("overlay", 0, True),
    ("copy", 0, False),
    ("copy", 0, True),
    ("mount-rw", 0, False),
    pytest.param("overlay", 1000, False, marks=needs_root),  # type: ignore[list-item]
    pytest.param("overlay", 1000, True, marks=needs_root),  # type: ignore[list-item]
    pytest.param("copy", 1000, False, marks=needs_root),  # type: ignore[list-item]
    pytest.param("copy", 1000, True, marks=needs_root),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("mode", "uid", "read_only"), MODES)
def test_the_project_is_writable_inside(
    engine: Engine,
    owner: Owner,
    start: Callable[..., RunningContainer],
    root: Path,
    mode: Source,
    uid: int,
    read_only: bool,
    request: pytest.FixtureRequest,
) -> None:
    if mode != "copy":
        request.getfixturevalue("sees_files")
    root.chmod(0o751)
    if uid and mode == "overlay":
        give(root, uid)
    plan = plan_source(engine.info, PathFacts(uid=uid, gid=uid), mode, root)
    assert plan.why is None
    script = "pwd; cat link sub/inner; echo; echo new > new && echo changed > file && echo x > sub/x && stat -c %a:%u ."
    with start(script, plan=plan, user=f"{uid}:{uid}", read_only=read_only) as container:
        text = output(container)
        assert text.startswith(f"{root}\nhostinner")
        shown_mode, shown_uid = text.splitlines()[-1].split(":")
        assert int(shown_uid) == uid
        if uid and mode == "overlay":
            assert int(shown_mode, 8) == stat.S_IMODE(root.stat().st_mode)
        assert left(engine, owner)
    assert left(engine, owner) == []
    files = sorted(path.name for path in root.rglob("*"))
    if mode == "mount-rw":
        assert files == ["file", "inner", "link", "new", "sub", "x"]
    else:
        assert files == ["file", "inner", "link", "sub"]
        assert (root / "file").read_text() == "host"


@pytest.mark.usefixtures("sees_files")
def test_a_mount_is_read_only(engine: Engine, start: Callable[..., RunningContainer], root: Path) -> None:
    plan = plan_source(engine.info, PathFacts(), "mount", root)
    with start("cat file; echo x 2>/dev/null > file || echo refused", plan=plan) as container:
        text = output(container)
        assert "host" in text
        assert "refused" in text
        assert engine.wait(container.id, timeout_s=_LIMIT_S) == 0
    assert (root / "file").read_text() == "host"


@pytest.mark.parametrize("name", ["a,b", "a:b", "a\\b", "größe", "a,ro", "'q\" $x"])
def test_odd_project_paths_work(
    engine: Engine, owner: Owner, start: Callable[..., RunningContainer], root: Path, name: str
) -> None:
    odd = root.rename(root.with_name(name))
    plan = plan_source(engine.info, PathFacts(), None, odd)
    with start("cat file && echo x > file && pwd", plan=plan) as container:
        assert output(container) == f"host{plan.container_root}\n"
    assert (odd / "file").read_text() == "host"
    assert left(engine, owner) == []


def test_a_path_of_the_image_is_not_covered(
    engine: Engine, start: Callable[..., RunningContainer], root: Path
) -> None:
    plan = plan_source(engine.info, PathFacts(state="occupied"), None, root)
    with start("pwd; cat file; echo x > new", plan=plan) as container:
        assert output(container) == "/envpar/pro ject\nhost"


def test_copies_hold_files_of_any_name_and_size(
    engine: Engine, start: Callable[..., RunningContainer], root: Path
) -> None:
    (root / os.fsdecode(b"\xff")).write_text("odd")
    (root / ("long" * 50)).write_bytes(b"1" * 3_000_000)
    plan = plan_source(engine.info, PathFacts(), "copy", root)
    with start("cat $(printf '\\377'); stat -c %s long*", plan=plan) as container:
        assert output(container) == "odd3000000\n"


def test_every_key_reaches_the_container(engine: Engine, start: Callable[..., RunningContainer]) -> None:
    script = """
    echo user=$(id -u):$(id -g) env=$A$B cwd=$(pwd) nofile=$(ulimit -n)
    for f in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; do
        [ -f $f ] && echo memory=$(cat $f); done
    for f in /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max; do [ -f $f ] && echo pids=$(cat $f); done
    for f in /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max; do [ -f $f ] && echo cpus=$(cat $f); done
    grep -E ' /(tmp|more|dev/shm|vol) ' /proc/mounts
    grep -E 'CapBnd|NoNewPrivs' /proc/self/status
    touch /x 2>/dev/null || echo read-only
    ls /sys/class/net; echo data > /vol/x && cat /vol/x
    """
    container = start(
        script,
        user="1000:1000",
        env=MappingProxyType({"A": "a", "B": "b"}),
        workdir=PurePosixPath("/usr"),
        memory_bytes=64 << 20,
        cpus=0.5,
        pids=77,
        read_only=True,
        tmpfs=("/tmp:size=3m", "/vol:mode=1777"),
        shm_size_bytes=2 << 20,
        ulimits=MappingProxyType({"nofile": 123, "nproc": 999}),
        cap_drop=("ALL",),
        options={"tmpfs": {"/more": ""}, "env": {"B": "B"}},
    )
    with container:
        text = output(container)
    assert "user=1000:1000 env=aB cwd=/usr nofile=123" in text
    assert f"memory={64 << 20}" in text
    assert "pids=77" in text
    assert "cpus=50000" in text
    assert "size=3072k" in text
    assert "size=2048k" in text
    assert "/more" in text
    assert "CapBnd:\t0000000000000000" in text
    assert "NoNewPrivs:\t1" in text
    assert "read-only" in text
    assert "eth0" not in text
    assert text.endswith("data\n")


def test_no_new_privileges_is_the_default(start: Callable[..., RunningContainer]) -> None:
    with start("grep NoNewPrivs /proc/self/status") as container:
        assert output(container) == "NoNewPrivs:\t1\n"


def test_a_user_by_name(start: Callable[..., RunningContainer]) -> None:
    with start("id -un", user="daemon") as container:
        assert output(container) == "daemon\n"


@pytest.mark.usefixtures("sees_files")
def test_host_folders_and_volumes_of_the_stage(
    engine: Engine, start: Callable[..., RunningContainer], root: Path, volume: Callable[..., tuple[str, str]]
) -> None:
    name, _ = volume()
    plan = plan_source(engine.info, PathFacts(), "copy", root)
    volumes = (f"{name}:/named", f"{root}/sub:/host:ro", "./sub:/relative", "/anonymous")
    script = """
    exec 2>&1  # the engine keeps no order between the two
    echo x > /named/x; cat /named/x /host/inner /relative/inner; echo y > /host/y || echo ro; ls -d /anonymous
    """
    with start(script, plan=plan, volumes=volumes) as container:
        text = output(container)
    assert "x\ninnerinner" in text
    assert "ro\n" in text
    assert engine.inspect_volume(name) is not None


def test_a_volume_that_is_none(start: Callable[..., RunningContainer]) -> None:
    with pytest.raises(StageError, match="volumes: 'nonsense'"):
        start("true", volumes=("nonsense",))


def test_stdin_archives_and_mounts(
    engine: Engine, start: Callable[..., RunningContainer], volume: Callable[..., tuple[str, str]]
) -> None:
    name, _ = volume()
    archive = tarstream.tar([tarstream.bytes_file("hello", b"from outside\n")])
    options = {
        "archives": [(PurePosixPath("/place"), archive)],
        "mounts": [Mount("volume", name, PurePosixPath("/place"))],
    }
    with start("cat /place/hello; read x; echo got $x", options=options) as container:
        container.stream.write(b"word\n")
        assert output(container) == "from outside\ngot word\n"
        with pytest.raises(EngineError):  # what was read as it came is not kept
            engine.logs(container.id)
        assert PurePosixPath("/place") in container.mount_points()


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"user": "nobody-by-that-name"}, "user"),
        ({"network": "no-such-network"}, "network"),
        ({"runtime": "no-such-runtime"}, "runtime"),
        ({"cap_drop": ("NO_SUCH_CAP",)}, "cap-drop"),
        ({"workdir": PurePosixPath("/etc/passwd")}, "workdir"),
    ],
)
def test_a_refusal_names_the_key(
    engine: Engine,
    owner: Owner,
    start: Callable[..., RunningContainer],
    root: Path,
    keys: dict[str, Any],
    key: str,
) -> None:
    plan = plan_source(engine.info, PathFacts(), None, root)
    with pytest.raises(StageError) as caught:
        start("true", plan=None if key == "workdir" else plan, **keys)
    assert f"{key} = " in caught.value.message
    assert "'qa'" in caught.value.message
    assert caught.value.hint
    assert left(engine, owner) == []


def test_a_missing_program_names_python(engine: Engine, base_image: str, owner: Owner, root: Path) -> None:
    stage = Stage("qa", image=base_image, network="none")
    plan = plan_source(engine.info, PathFacts(), None, root)
    with pytest.raises(StageError, match="python = '/no/such/python'"):
        start_container(
            engine,
            resolve(engine, stage, root),
            stage,
            owner=owner,
            command=["/no/such/python", "-c", ""],
            source_plan=plan,
        )
    assert left(engine, owner) == []


class Failing:
    """An engine whose one verb fails, after it has done its work or before."""

    def __init__(self, engine: Engine, verb: str, error: BaseException, *, after: bool) -> None:
        self._engine, self._verb, self._error, self._after = engine, verb, error, after

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._engine, name)
        if name != self._verb:
            return real

        def fail(*args: Any, **keywords: Any) -> None:
            if self._after:
                made = real(*args, **keywords)
                if hasattr(made, "close"):
                    made.close()
            raise self._error

        return fail


@pytest.mark.parametrize("verb", ["create_volume", "create_container", "put_archive", "attach", "start"])
@pytest.mark.parametrize("error", [EngineError("broken"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_start_that_fails_leaves_nothing(
    engine: Engine, base_image: str, owner: Owner, root: Path, verb: str, error: BaseException, after: bool
) -> None:
    stage = Stage("qa", image=base_image, network="none")
    image = resolve(engine, stage, root)
    facts = PathFacts(uid=1000)
    mode: Source = "overlay" if verb == "create_volume" and engine.info.native_overlay else "copy"
    plan = plan_source(engine.info, facts, mode, root)
    failing: Any = Failing(engine, verb, error, after=after)
    with pytest.raises(type(error)):
        start_container(failing, image, stage, owner=owner, command=["/bin/true"], source_plan=plan)
    assert left(engine, owner) == []


def test_a_name_in_use_is_not_ours_to_remove(
    engine: Engine, owner: Owner, start: Callable[..., RunningContainer]
) -> None:
    name = container_name(owner, "qa", 7)
    assert name == f"envpar-qa-{owner.run}-7"
    with start("read x", options={"name": name}) as first:
        with pytest.raises(ConflictError):
            start("true", options={"name": name})
        assert first.inspect().running
    assert left(engine, owner) == []


def test_removing_twice_and_after_someone_else(
    engine: Engine, owner: Owner, start: Callable[..., RunningContainer], root: Path
) -> None:
    plan = plan_source(engine.info, PathFacts(), None, root)
    container = start("sleep 60", plan=plan)
    engine.remove_container(container.id)
    with pytest.raises(NotFoundError):
        container.inspect()
    container.remove()
    container.remove()
    assert left(engine, owner) == []


def test_a_released_container_stays(
    engine: Engine, owner: Owner, start: Callable[..., RunningContainer]
) -> None:
    with start("sleep 60") as container:
        container.release()
    try:
        assert engine.inspect_container(container.id).running
    finally:
        engine.remove_container(container.id)


def test_a_container_that_is_not_attached_to(start: Callable[..., RunningContainer]) -> None:
    with (
        start("true", options={"attach": False, "stdin": False}) as container,
        pytest.raises(ValueError, match="attach"),
    ):
        _ = container.stream


def test_a_platform_that_the_image_is_not_for(
    engine: Engine, base_image: str, owner: Owner, root: Path
) -> None:
    stage = Stage("qa", image=base_image, network="none")
    image = resolve(engine, stage, root)
    other = dataclasses.replace(stage, platform="linux/s390x")
    said = "platform"  # an engine may emulate, or take the image as it is
    try:
        start_container(engine, image, other, owner=owner, command=["/bin/true"]).remove()
    except StageError as error:
        said = error.message
    assert "platform" in said
    assert left(engine, owner) == []
