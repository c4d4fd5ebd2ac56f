"""The contract of the engine's container verbs, against Docker and Podman."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tarfile
import threading
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.engine.values.create import ContainerSpec, Mount
from pytest_envpar.errors import ConflictError, ConnectionLostError, EngineError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pytest_envpar.engine.api import Engine, Stream

pytestmark = pytest.mark.engine

_LIMIT_S = 60.0
_BIG = 20 << 20


def drain(stream: Stream) -> tuple[bytes, bytes]:
    """Everything until the end: standard output and standard error."""
    pieces: dict[int, list[bytes]] = {1: [], 2: []}
    while True:
        piece = stream.read(_LIMIT_S)
        assert piece is not None, f"no output for {_LIMIT_S} s; so far {pieces}"
        if piece[0] == 0:
            return b"".join(pieces[1]), b"".join(pieces[2])
        pieces[piece[0]].append(piece[1])


def read_exactly(stream: Stream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = stream.read(_LIMIT_S)
        assert piece is not None
        assert piece[0] == 1, (piece, bytes(data[-200:]))
        data += piece[1]
    return bytes(data)


def tar_of(**files: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def test_attached_before_start_bytes_go_both_ways(engine: Engine, create: Callable[..., str]) -> None:
    program = (
        "import os, sys\n"
        "os.write(1, b'first'); first = sys.stdin.buffer.read(5)\n"
        "os.write(1, b'got ' + first); os.write(2, b'error'); sys.exit(7)"
    )
    container = create("python3", "-c", program, stdin=True)
    assert engine.inspect_container(container).exit_code is None
    stream = engine.attach(container)
    with contextlib.closing(stream):
        assert stream.read(0) is None
        engine.start(container)
        assert read_exactly(stream, 5) == b"first"
        assert stream.read(0.01) is None
        assert engine.inspect_container(container).running
        stream.write(b"hello")
        assert drain(stream) == (b"got hello", b"error")
        assert stream.read(0) == (0, b"")
    assert engine.wait(container, timeout_s=_LIMIT_S) == 7
    info = engine.inspect_container(container)
    assert (info.running, info.exit_code, info.oom_killed) == (False, 7, False)
    assert info.id == container
    assert sorted(engine.logs(container)) == sorted(b"firstgot helloerror")
    assert len(engine.logs(container, tail=0)) == 0


def test_closing_the_stream_ends_the_input_inside(engine: Engine, create: Callable[..., str]) -> None:
    container = create("python3", "-c", "import sys; sys.stdin.read(); sys.exit(5)", stdin=True)
    stream = engine.attach(container)
    engine.start(container)
    stream.close()
    stream.close()
    assert stream.read(1) == (0, b"")
    with pytest.raises(ConnectionLostError, match="standard input"):
        stream.write(b"late")
    assert engine.wait(container, timeout_s=_LIMIT_S) == 5


def test_closing_wakes_a_reader(engine: Engine, create: Callable[..., str]) -> None:
    container = create("sleep", "600", stdin=True)
    stream = engine.attach(container)
    engine.start(container)
    found: list[object] = []
    reader = threading.Thread(target=lambda: found.append(stream.read(_LIMIT_S)))
    reader.start()
    stream.close()
    reader.join(_LIMIT_S)
    assert found == [(0, b"")]


def test_a_big_stream_both_ways_at_once(engine: Engine, create: Callable[..., str]) -> None:
    container = create("cat", stdin=True)
    stream = engine.attach(container)
    engine.start(container)
    data = os.urandom(1 << 16) * (_BIG >> 16)
    writer = threading.Thread(target=stream.write, args=(data,))
    with contextlib.closing(stream):
        writer.start()
        assert read_exactly(stream, len(data)) == data
        writer.join(_LIMIT_S)


def test_wait_is_over_in_time(engine: Engine, create: Callable[..., str]) -> None:
    container = create("sleep", "600")
    engine.start(container)
    with pytest.raises(TimeoutError, match="not within"):
        engine.wait(container, timeout_s=0.2)
    engine.kill(container)
    assert engine.wait(container, timeout_s=_LIMIT_S) == 137
    with pytest.raises(ConflictError):
        engine.kill(container)


def test_wait_for_a_removal(engine: Engine, create: Callable[..., str]) -> None:
    container = create("sleep", "600")
    engine.start(container)
    engine.kill(container)
    engine.wait(container, timeout_s=_LIMIT_S)
    with pytest.raises(TimeoutError, match="not within"):
        engine.wait_removed(container, timeout_s=0.2)
    remover = threading.Thread(target=engine.remove_container, args=(container,))
    remover.start()
    engine.wait_removed(container, timeout_s=_LIMIT_S)
    with pytest.raises(NotFoundError):
        engine.inspect_container(container)
    remover.join(_LIMIT_S)
    engine.wait_removed(container, timeout_s=_LIMIT_S)


def test_a_signal_reaches_the_main_process(engine: Engine, create: Callable[..., str]) -> None:
    program = (
        "import signal, sys; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(9)); print('up', flush=True)"
    )
    container = create("python3", "-c", program + "\nwhile True: signal.pause()", stdin=True)
    stream = engine.attach(container)
    with contextlib.closing(stream):
        engine.start(container)
        assert read_exactly(stream, 3) == b"up\n"
        engine.kill(container, "USR1")
        assert engine.wait(container, timeout_s=_LIMIT_S) == 9


def test_exec_has_input_environment_user_and_folder(engine: Engine, create: Callable[..., str]) -> None:
    container = create("sleep", "600")
    engine.start(container)
    made = engine.exec(container, ["cat"], input=b"abc" * 1000)
    assert (made.exit_code, made.stdout, made.stderr) == (0, b"abc" * 1000, b"")
    made = engine.exec(
        container,
        ["sh", "-c", 'echo "$NAME $(id -u) $(pwd)"; echo no >&2; exit 4'],
        env={"NAME": "a b"},
        user="1000",
        workdir=PurePosixPath("/tmp"),
    )
    assert (made.exit_code, made.stdout, made.stderr) == (4, b"a b 1000 /tmp\n", b"no\n")
    with pytest.raises(TimeoutError):
        engine.exec(container, ["sleep", "600"], timeout_s=0.2)
    # The command ends before it has read its input: not an error.
    assert engine.exec(container, ["true"], input=b"x" * (1 << 20)).exit_code == 0


def test_exec_stream_talks_to_a_second_process(engine: Engine, create: Callable[..., str]) -> None:
    container = create("sleep", "600")
    engine.start(container)
    with contextlib.closing(engine.exec_stream(container, ["cat"])) as stream:
        stream.write(b"hello")
        assert read_exactly(stream, 5) == b"hello"
        engine.remove_container(container)
        assert drain(stream) == (b"", b"")


@pytest.mark.parametrize("running", [False, True], ids=["created", "running"])
def test_archives_go_in_and_out(engine: Engine, create: Callable[..., str], running: bool) -> None:
    container = create("sleep", "600")
    if running:
        engine.start(container)
    engine.put_archive(container, PurePosixPath("/opt"), tar_of(a=b"one"))
    content = tar_of(b=b"two")
    engine.put_archive(container, PurePosixPath("/opt"), iter([content[:100], content[100:]]))
    taken = b"".join(engine.get_archive(container, PurePosixPath("/opt")))
    with tarfile.open(fileobj=io.BytesIO(taken)) as archive:
        found = {
            member.name: file.read()
            for member in archive
            if member.isfile() and (file := archive.extractfile(member)) is not None
        }
    assert found == {"opt/a": b"one", "opt/b": b"two"}
    with pytest.raises(NotFoundError):
        engine.get_archive(container, PurePosixPath("/not/there"))
    if engine.info.kind == "docker":
        with pytest.raises(NotFoundError):
            engine.put_archive(container, PurePosixPath("/not/there"), tar_of(a=b""))


def test_a_read_archive_can_be_left_early(engine: Engine, create: Callable[..., str]) -> None:
    container = create("true")
    for piece in engine.get_archive(container, PurePosixPath("/usr/lib")):
        assert piece
        break
    assert engine.inspect_container(container).status == "created"


def test_changes_name_what_differs_from_the_image(engine: Engine, create: Callable[..., str]) -> None:
    container = create("sh", "-c", "echo x > /opt/new; echo y >> /etc/hosts.allow; rm -r /usr/share/doc")
    engine.start(container)
    engine.wait(container, timeout_s=_LIMIT_S)
    found = {str(change.path): change.kind for change in engine.changes(container)}
    assert found["/opt/new"] == "added"
    assert found["/opt"] == "modified"
    assert found["/usr/share/doc"] == "removed"
    assert list(found) == sorted(found)


def test_nothing_changed_is_an_empty_answer(engine: Engine, create: Callable[..., str]) -> None:
    container = create("true")
    assert all(change.path.parts[1] in ("etc", "run", "dev") for change in engine.changes(container))


def test_labels_find_containers(
    engine: Engine, create: Callable[..., str], run_labels: Mapping[str, str]
) -> None:
    container = create("true", labels={**run_labels, "pytest-envpar.test": "a", "pytest-envpar.two": "2"})
    create("true", labels={**run_labels, "pytest-envpar.test": "b"})
    run = {"pytest-envpar.run": run_labels["pytest-envpar.run"]}

    def ids(**labels: str) -> set[str]:
        wanted = {f"pytest-envpar.{name}": value for name, value in labels.items()}
        return {listed.id for listed in engine.list_containers(run | wanted)}

    assert len(ids(test="")) == 2
    assert ids(test="a") == ids(test="", two="2") == {container}
    assert ids(test="c") == set()
    (listed,) = engine.list_containers(run | {"pytest-envpar.two": "2"})
    assert listed.name == engine.inspect_container(container).name
    assert listed.labels["pytest-envpar.test"] == "a"
    assert listed.status == "created"


def test_removing_twice_is_fine_and_reading_is_not(engine: Engine, create: Callable[..., str]) -> None:
    container = create("sleep", "600", name="envpar-test-removed-twice")
    engine.start(container)
    threads = [threading.Thread(target=engine.remove_container, args=(container,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_LIMIT_S)
    engine.remove_container(container)
    for verb in (
        engine.inspect_container,
        engine.start,
        engine.logs,
        engine.attach,
        engine.wait,
        engine.kill,
    ):
        with pytest.raises(NotFoundError):
            verb(container)
    with pytest.raises(NotFoundError):
        engine.exec(container, ["true"])


def test_a_name_is_given_once(engine: Engine, create: Callable[..., str]) -> None:
    container = create("true", name="envpar-test-one-name", hostname="inside")
    assert engine.inspect_container(container).name == "envpar-test-one-name"
    with pytest.raises((ConflictError, EngineError), match="envpar-test-one-name"):
        create("true", name="envpar-test-one-name")


def test_an_image_that_is_not_there(engine: Engine, run_labels: Mapping[str, str]) -> None:
    spec = ContainerSpec(image="envpar-no-such-image:1", command=("true",), labels=run_labels)
    with pytest.raises(NotFoundError, match="envpar-no-such-image"):
        engine.create_container(spec)
    assert engine.inspect_image("envpar-no-such-image:1") is None


def test_a_command_that_is_not_there(engine: Engine, create: Callable[..., str]) -> None:
    container = create("/no/such/program")
    with pytest.raises(EngineError, match="/no/such/program"):
        engine.start(container)


def test_the_process_has_what_the_spec_says(engine: Engine, create: Callable[..., str]) -> None:
    program = (
        "import os, resource, json, socket\n"
        "s = os.statvfs('/scratch'); st = open('/proc/self/status').read()\n"
        "print(json.dumps([os.getuid(), os.getgid(), os.getcwd(), os.environ['A'], socket.gethostname(),"
        " resource.getrlimit(resource.RLIMIT_NOFILE), s.f_blocks * s.f_frsize, 'NoNewPrivs:\\t1' in st,"
        " 'CapEff:\\t0000000000000000' in st, os.statvfs('/dev/shm').f_blocks * 4096]))"
    )
    container = create(
        "-c",
        program,
        entrypoint=("python3",),
        user="1234:2345",
        workdir=PurePosixPath("/tmp"),
        env={"A": "b=c d"},
        hostname="inside",
        ulimits={"nofile": 777, "nproc": 999},
        tmpfs={"/scratch": "size=4194304,mode=1777"},
        cap_drop=("ALL",),
        shm_size_bytes=8 << 20,
        init=False,
    )
    engine.start(container)
    assert engine.wait(container, timeout_s=_LIMIT_S) == 0, engine.logs(container)
    expected = '[1234, 2345, "/tmp", "b=c d", "inside", [777, 777], 4194304, true, true, 8388608]'
    assert engine.logs(container).decode().strip() == expected


def test_a_read_only_root_with_a_writable_tmpfs(engine: Engine, create: Callable[..., str]) -> None:
    container = create(
        "sh",
        "-c",
        "echo x > /tmp/a && cat /tmp/a; echo x > /opt/a || echo refused",
        read_only=True,
        tmpfs={"/tmp": ""},
    )
    engine.start(container)
    engine.wait(container, timeout_s=_LIMIT_S)
    logged = engine.logs(container)
    assert b"refused" in logged
    assert b"Read-only file system" in logged


def test_the_memory_limit_kills_and_is_told(engine: Engine, create: Callable[..., str]) -> None:
    container = create("python3", "-c", "x = bytearray(400 << 20); print(len(x))", memory_bytes=64 << 20)
    engine.start(container)
    assert engine.wait(container, timeout_s=_LIMIT_S) == 137
    info = engine.inspect_container(container)
    assert info.exit_code == 137
    # Podman 4 tells it on cgroup v2 only.
    if engine.info.kind == "docker" or engine.info.cgroup_version == 2:
        assert info.oom_killed


def test_the_limit_of_processes(engine: Engine, create: Callable[..., str]) -> None:
    program = (
        "import os, signal\ntry:\n for i in range(100):\n  if not os.fork(): signal.pause()\n"
        "except BlockingIOError: print('limit', i, flush=True)\nos.killpg(0, signal.SIGKILL)"
    )
    container = create("python3", "-c", program, pids=20, nano_cpus=500_000_000)
    engine.start(container)
    engine.wait(container, timeout_s=_LIMIT_S)
    assert engine.logs(container).startswith(b"limit")


def test_volumes_outlive_a_container_and_hold_what_it_wrote(
    engine: Engine,
    create: Callable[..., str],
    volume: Callable[..., tuple[str, str]],
    run_labels: Mapping[str, str],
) -> None:
    name, mount_point = volume()
    run = {"pytest-envpar.run": run_labels["pytest-envpar.run"]}
    assert mount_point.startswith("/")
    assert str(engine.create_volume(name, labels=run_labels)) == mount_point
    mount = Mount("volume", name, PurePosixPath("/data"))
    container = create("sh", "-c", "echo kept > /data/a", mounts=(mount,))
    engine.start(container)
    assert engine.wait(container, timeout_s=_LIMIT_S) == 0
    with pytest.raises(ConflictError):
        engine.remove_volume(name)
    engine.remove_container(container)
    read_only = Mount("volume", name, PurePosixPath("/data"), read_only=True)
    again = create("sh", "-c", "cat /data/a; echo x > /data/b || echo refused", mounts=(read_only,))
    engine.start(again)
    engine.wait(again, timeout_s=_LIMIT_S)
    logged = engine.logs(again)
    assert b"kept\n" in logged
    assert b"refused\n" in logged
    found = engine.inspect_volume(name)
    assert found is not None
    assert found.labels["pytest-envpar.run"] == run_labels["pytest-envpar.run"]
    assert name in {listed.name for listed in engine.list_volumes(run)}
    engine.remove_container(again)
    engine.remove_volume(name)
    engine.remove_volume(name)
    assert engine.inspect_volume(name) is None


def test_an_anonymous_volume_goes_with_its_container(engine: Engine, create: Callable[..., str]) -> None:
    command = ("sh", "-c", "echo x > /data/a && grep ' /data ' /proc/self/mountinfo")
    container = create(*command, mounts=(Mount("volume", None, PurePosixPath("/data")),))
    engine.start(container)
    assert engine.wait(container, timeout_s=_LIMIT_S) == 0, engine.logs(container)
    # Other runs may make volumes at the same time: which one is ours, its mount says.
    found = re.search(rb"/volumes/([^/ ]+)/_data ", engine.logs(container))
    assert found, engine.logs(container)
    name = found[1].decode()
    assert engine.inspect_volume(name) is not None
    engine.remove_container(container)
    assert engine.inspect_volume(name) is None


@pytest.mark.usefixtures("sees_files")
def test_the_project_as_an_overlay(
    engine: Engine, create: Callable[..., str], volume: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("host")
    if engine.info.native_overlay:
        _, upper = volume()
        _, work = volume()
        options = f"lowerdir={tmp_path},upperdir={upper},workdir={work}"
        name, _ = volume(type="overlay", device="overlay", o=options)
        mount = Mount("volume", name, PurePosixPath(tmp_path))
    else:
        assert engine.info.kind == "podman"
        mount = Mount("overlay", str(tmp_path), PurePosixPath(tmp_path))
    container = create(
        "sh",
        "-c",
        "cat kept; echo inside > kept; echo new > new; cat kept new",
        mounts=(mount,),
        workdir=tmp_path,
    )
    engine.start(container)
    assert engine.wait(container, timeout_s=_LIMIT_S) == 0
    assert engine.logs(container) == b"hostinside\nnew\n"
    assert (tmp_path / "kept").read_text() == "host"
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("sees_files")
@pytest.mark.parametrize("read_only", [True, False], ids=["ro", "rw"])
def test_a_bind_mount(engine: Engine, create: Callable[..., str], tmp_path: Path, read_only: bool) -> None:
    mount = Mount("bind", str(tmp_path), PurePosixPath("/project"), read_only=read_only)
    container = create("sh", "-c", "echo x > /project/a", mounts=(mount,))
    engine.start(container)
    assert (engine.wait(container, timeout_s=_LIMIT_S) == 0) is not read_only
    assert (tmp_path / "a").exists() is not read_only


def test_many_threads_share_one_engine(engine: Engine, create: Callable[..., str]) -> None:
    container = create("sleep", "600")
    engine.start(container)
    found: list[bytes] = []

    def ask(number: int) -> None:
        found.append(engine.exec(container, ["echo", str(number)]).stdout)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_LIMIT_S)
    assert sorted(found) == [f"{number}\n".encode() for number in range(6)]
