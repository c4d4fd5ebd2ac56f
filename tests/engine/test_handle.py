"""The container handle, against Docker and Podman."""

from __future__ import annotations

import dataclasses
import os
import pickle
import secrets
import socket
import stat
import threading
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.config.model import Stage
from pytest_envpar.containers import checkpoint, idle
from pytest_envpar.containers.labels import CACHE, KIND, Owner
from pytest_envpar.containers.recipe import Recipe
from pytest_envpar.errors import (
    CommandError,
    CommandTimeoutError,
    ConflictError,
    EngineError,
    NotFoundError,
    NotYetError,
    UsageError,
)
from pytest_envpar.images import tarstream
from pytest_envpar.images.pinned import pin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_envpar.containers.handle import Address, Container
    from pytest_envpar.engine.api import Engine

pytestmark = pytest.mark.engine

_LIMIT_S = 60.0


@pytest.fixture(scope="module", name="make_recipe")
def make_recipe_fixture(
    engine: Engine, base_image: str, run_labels: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Recipe]:
    """``make_recipe(**stage)``: idle containers of the base image, without a network unless one is asked for."""
    info = engine.inspect_image(base_image)
    assert info is not None
    image = pin(base_image, info)
    owner = Owner.parse(run_labels)
    assert owner is not None
    cache = tmp_path_factory.mktemp("idle")
    command, mounts = idle.ensure(engine, info.architecture, info.id, owner.labels("cache"), cache)

    def make(
        command: tuple[str, ...] = command,
        ports: tuple[str, ...] = (),
        ids: tuple[int, int] = (0, 0),
        **keys: object,
    ) -> Recipe:
        stage = Stage("qa", **{"image": base_image, "network": "none", **keys})  # type: ignore[arg-type]
        return Recipe(
            engine, image, stage, owner, named="qa", command=command, mounts=mounts, ports=ports, ids=ids
        )

    return make


@pytest.fixture(scope="module")
def shared(make_recipe: Callable[..., Recipe]) -> Iterator[Container]:
    """One container for tests that leave it usable."""
    with make_recipe().start() as container:
        yield container


def test_a_command_and_what_it_leaves(shared: Container) -> None:
    result = shared.exec(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.exit_code, result.text, result.error_text, result.ok) == (3, "out\n", "err\n", False)
    assert shared.stage == "qa"
    assert shared.image.image_id.startswith("sha256:")
    assert shared.inspect().name == shared.name


def test_bytes_go_in_and_out_as_they_are(shared: Container) -> None:
    data = bytes(range(256)) * 8192
    assert shared.exec(["cat"], input=data, timeout=_LIMIT_S).stdout == data


def test_environment_user_and_working_directory(shared: Container) -> None:
    result = shared.exec(
        ["sh", "-c", "echo $NAME $(id -u) $(pwd)"],
        env={"NAME": "x y"},
        user="1234",
        workdir="/usr",
        check=True,
    )
    assert result.text == "x y 1234 /usr\n"


def test_a_failed_command_is_an_error_if_asked(shared: Container) -> None:
    with pytest.raises(CommandError, match="exit code 7") as caught:
        shared.exec(["sh", "-c", "echo before; printf 'bad\\033[1m\\n' >&2; exit 7"], check=True)
    error = caught.value
    assert (error.exit_code, error.stdout, error.code) == (7, b"before\n", "command")
    assert error.detail == ("before", "bad?[1m")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.exit_code, again.stderr) == (str(error), 7, error.stderr)


def test_a_command_that_takes_too_long_is_killed_with_its_children(shared: Container) -> None:
    script = "echo begun; sleep 4321 & sleep 4321"
    with pytest.raises(CommandTimeoutError, match="was killed") as caught:
        shared.exec(["sh", "-c", script], timeout=1.0)
    assert caught.value.stdout == b"begun\n"
    assert isinstance(caught.value, TimeoutError)
    assert _processes(shared, "4321") == 0


def test_a_line_instead_of_a_list_is_refused(shared: Container) -> None:
    with pytest.raises(UsageError, match="as a list"):
        shared.exec("echo x")
    with pytest.raises(UsageError, match="absolute"):
        shared.read_bytes("etc/passwd")


def test_a_process_to_talk_to(shared: Container) -> None:
    with shared.popen(["cat"]) as process:
        process.write(b"one")
        assert process.read(_LIMIT_S) == (1, b"one")
        assert process.poll() is None
        assert process.read(0.01) is None
        process.close_stdin()
        assert process.wait(_LIMIT_S) == 0
    with shared.popen(["sleep", "4322"]) as process, pytest.raises(TimeoutError):
        process.wait(0.1)
    assert _processes(shared, "4322") == 0


def test_files_are_written_and_read(shared: Container) -> None:
    data = os.urandom(300_000)
    shared.write("/new/folder/data.bin", data, mode=0o640)
    assert shared.read_bytes(PurePosixPath("/new/folder/data.bin")) == data
    assert shared.exec(["stat", "-c", "%a %u", "/new/folder/data.bin"]).text == "640 0\n"
    shared.write("/new/folder/data.bin", "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n\n")
    assert shared.read_text("/new/folder/data.bin") == "gr\u00fcn\n"
    shared.exec(["ln", "-sf", "folder/data.bin", "/new/link"], check=True)
    assert shared.read_text("/new/link") == "gr\u00fcn\n"


def test_what_cannot_be_read_says_so(shared: Container) -> None:
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        shared.read_bytes("/nowhere/at/all")
    with pytest.raises(IsADirectoryError):
        shared.read_bytes("/etc")
    shared.exec(["ln", "-sf", "/loop", "/loop"], check=True)
    with pytest.raises(UsageError, match="too many"):
        shared.read_bytes("/loop")


def test_a_file_belongs_to_the_containers_user(make_recipe: Callable[..., Recipe]) -> None:
    with make_recipe(user="1000:1001", ids=(1000, 1001)).start() as container:
        container.write("/opt/app/settings", "x")
        assert (
            container.exec(["stat", "-c", "%u:%g", "/opt/app", "/opt/app/settings"]).text == "1000:1001\n" * 2
        )
        assert container.exec(["sh", "-c", "echo y >> /opt/app/settings"]).ok


def test_folders_are_copied_in_and_out(shared: Container, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (source / "deep" / "run.sh").chmod(0o755)
    (source / "link").symlink_to("deep/run.sh")
    shared.copy_in(source, "/opt")
    assert shared.exec(["/opt/source/link"], check=True).text == "ran\n"
    shared.copy_in(source / "deep" / "run.sh", "/opt/made/here.sh")
    assert shared.read_text("/opt/made/here.sh").endswith("ran\n")

    (tmp_path / "out").mkdir()
    back = shared.copy_out("/opt/source", tmp_path / "out")
    assert back == tmp_path / "out" / "source"
    assert (back / "deep" / "run.sh").read_text() == (source / "deep" / "run.sh").read_text()
    assert (back / "deep" / "run.sh").stat().st_mode & 0o111
    assert (back / "link").readlink() == Path("deep/run.sh")
    named = shared.copy_out("/opt/source/link", tmp_path / "named.sh")
    assert named.read_text().endswith("ran\n")
    with pytest.raises(UsageError, match="does not exist"):
        shared.copy_in(tmp_path / "nothing", "/opt")
    with pytest.raises(FileNotFoundError):
        shared.copy_out("/nothing", tmp_path)


def test_nothing_hostile_comes_out(shared: Container, tmp_path: Path) -> None:
    script = (
        "rm -rf /evil; mkdir -p /evil/sub; cd /evil; echo good > good; echo x > suid; chmod 6777 suid;"
        "ln -s /etc/passwd absolute; ln -s ../../../outside relative; ln -s sub/../../.. tricky;"
        "ln good hard; mkfifo pipe; ln -s good fine; chmod 0 sub"
    )
    shared.exec(["sh", "-c", script], check=True)
    out = shared.copy_out("/evil", tmp_path / "copy")
    assert sorted(path.name for path in out.iterdir()) == ["fine", "good", "hard", "sub", "suid"]
    assert (out / "hard").read_text() == "good\n"
    assert stat.S_IMODE((out / "suid").stat().st_mode) == 0o777
    assert list(tmp_path.iterdir()) == [out]


def test_a_link_on_the_host_is_not_followed(shared: Container, tmp_path: Path) -> None:
    shared.exec(["sh", "-c", "mkdir -p /tree/a; echo new > /tree/a/file"], check=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").symlink_to(outside)
    with pytest.raises(UsageError, match="symbolic link"):
        shared.copy_out("/tree", tmp_path)
    assert list(outside.iterdir()) == []


def test_tmpfs_is_reached_through_a_command(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with make_recipe(tmpfs=("/scratch",)).start() as container:
        container.write("/scratch/a/b", b"\0data")
        assert container.exec(["cat", "/scratch/a/b"]).stdout == b"\0data"
        assert container.read_bytes("/scratch/a/b") == b"\0data"
        with pytest.raises(UsageError, match="tmpfs"):
            container.copy_out("/scratch", tmp_path)


def test_logs_of_the_main_process(make_recipe: Callable[..., Recipe]) -> None:
    with make_recipe(("sh", "-c", "echo one; echo two >&2; sleep 600")).start() as container:
        _until(lambda: len(container.logs().splitlines()) == 2)
        assert sorted(container.logs().splitlines()) == ["one", "two"]
        assert len(container.logs(tail=1).splitlines()) == 1
        assert container.logs(since=time.time() + 60) == ""


def test_ports_are_published_on_loopback_only(make_recipe: Callable[..., Recipe]) -> None:
    program = (
        "import socket; s = socket.create_server(('0.0.0.0', 8000)); "
        "[(c.sendall(b'hello'), c.close()) for c, _ in iter(s.accept, None)]"
    )
    recipe = make_recipe(("python3", "-c", program), ports=("8000/tcp",), network=None)
    with recipe.start() as container:
        container.wait_ready()
        address = container.port(8000)
        assert address.host == "127.0.0.1"
        assert str(address) == f"127.0.0.1:{address.port}"
        published = container.inspect().ports["8000/tcp"]
        assert {host for host, _ in published} == {"127.0.0.1"}
        _until(lambda: _hello(address))
        assert container.ip().version == 4
        with pytest.raises(UsageError, match=r"8001/tcp is not published \(published: 8000/tcp\)"):
            container.port(8001)
        with pytest.raises(UsageError, match="'nowhere'"):
            container.ip("nowhere")


def test_no_network_has_no_address(shared: Container) -> None:
    with pytest.raises(UsageError, match="not on any network"):
        shared.ip()


def test_it_uses_something(shared: Container) -> None:
    used = shared.stats()
    assert used.memory_bytes > 0
    assert used.pids >= 1
    assert used.cpu_s > 0


def test_stopping_need_not_wait(make_recipe: Callable[..., Recipe]) -> None:
    with make_recipe().start() as container:
        container.write("/kept", "x")
        container.stop(timeout=60)
        info = container.inspect()
        assert (info.running, info.exit_code) == (False, 0)
        container.stop()
        with pytest.raises(EngineError, match="ended with exit code 0"):
            container.wait_ready()
        container.restart()
        container.wait_ready(_LIMIT_S)
        assert container.read_text("/kept") == "x"


def test_pausing_freezes_it(make_recipe: Callable[..., Recipe]) -> None:
    with make_recipe(("sh", "-c", "while :; do date +%N; done")).start() as container:
        container.pause()
        assert container.inspect().status == "paused"
        before = container.logs()
        assert container.logs() == before
        container.unpause()
        _until(lambda: container.logs() != before)


def test_a_signal_and_a_kill(make_recipe: Callable[..., Recipe]) -> None:
    with make_recipe(
        ("sh", "-c", "trap 'exit 9' USR1; echo up; while :; do sleep 0.1; done")
    ).start() as container:
        _until(lambda: "up" in container.logs())
        container.kill("USR1")
        _until(lambda: container.inspect().exit_code == 9)
    with make_recipe().start() as container:
        container.kill()
        _until(lambda: container.inspect().exit_code == 137)
        with pytest.raises(ConflictError):
            container.exec(["true"])


def test_a_container_that_was_removed_says_so(make_recipe: Callable[..., Recipe]) -> None:
    with make_recipe().start() as container:
        container.recipe.engine.remove_container(container.id)
        with pytest.raises(NotFoundError):
            container.read_bytes("/etc/passwd")
        with pytest.raises(NotFoundError):
            container.exec(["true"])
        container.remove()


def test_orphans_are_reaped(shared: Container) -> None:
    shared.exec(["sh", "-c", "(sleep 0.01; true) & exit 0"], check=True)
    script = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"
    _until(lambda: shared.exec(["sh", "-c", script]).text.strip() == "0")


def test_an_image_without_anything_idles(
    engine: Engine, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    name = f"envpar-test-empty-{secrets.token_hex(4)}"
    dockerfile = b"FROM scratch\nCOPY f /f\n"
    context = tarstream.tar(
        [tarstream.bytes_file("Dockerfile", dockerfile), tarstream.bytes_file("f", b"content")]
    )
    image_id = engine.build(context, dockerfile="Dockerfile", tag=f"{name}:1")
    try:
        info = engine.inspect_image(image_id)
        assert info is not None
        recipe = make_recipe()
        with dataclasses.replace(recipe, image=pin(name, info)).start() as container:
            container.wait_ready()
            assert container.read_bytes("/f") == b"content"
            container.write("/g/h", b"more")
            assert container.copy_out("/g", tmp_path).name == "g"
            container.stop(timeout=60)
            assert container.inspect().exit_code == 0
    finally:
        engine.remove_image(f"{name}:1", force=True)


def test_a_checkpoint_is_restored(engine: Engine, make_recipe: Callable[..., Recipe]) -> None:
    name = f"migrated-{secrets.token_hex(4)}"
    told: list[checkpoint.Checkpoint] = []
    recipe = dataclasses.replace(make_recipe(), remember=told.append)
    with recipe.start() as first:
        first.write("/data/rows", "one\n")
        point = first.checkpoint(name)
        try:
            assert told == [point]
            assert point.parent_id == first.image.image_id
            first.write("/data/rows", "spoilt\n")
            with first.restore(point) as second, first.restore(point) as third:
                assert second.read_text("/data/rows") == third.read_text("/data/rows") == "one\n"
                assert second.stage == "qa"
                assert second.id != third.id
            info = engine.inspect_image(point.reference)
            assert info is not None
            assert info.labels[KIND] == CACHE
            assert info.entrypoint == first.image.info.entrypoint
            assert info.cmd == first.image.info.cmd
            found = checkpoint.find(engine, recipe.owner.project, name)
            assert found is not None
            assert found.image_id == point.image_id
            # The name is taken over; who holds the old one can still restore until it is gone.
            again = first.checkpoint(name)
            assert again.image_id != point.image_id
            with first.restore(again) as fourth:
                assert fourth.read_text("/data/rows") == "spoilt\n"
            with pytest.raises(UsageError, match="gone from the engine"):
                first.restore(point)
        finally:
            engine.remove_image(point.reference, force=True)
        with pytest.raises(UsageError, match="cannot be a checkpoint's name"):
            first.checkpoint("a/b")


def test_without_a_comparer_comparing_is_refused(shared: Container) -> None:
    with pytest.raises(NotYetError):
        shared.changes()


def test_many_threads_share_one(shared: Container) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda number=number: found.append(shared.exec(["echo", str(number)]).text))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_LIMIT_S)
    assert sorted(found) == [f"{number}\n" for number in range(8)]


def _processes(container: Container, argument: str) -> int:
    """How many processes have this argument, but for the ones that look."""
    script = f"grep -lz '^{argument}$' /proc/[0-9]*/cmdline 2>/dev/null | wc -l"
    return int(container.exec(["sh", "-c", script]).text)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.02)


def _hello(address: Address) -> bool:
    try:
        with socket.create_connection(address, timeout=5) as connection:
            return connection.recv(16) == b"hello"
    except OSError:
        return False
