"""What every container handle does, on the host and inside a stage: a suite that is run on both sides.

The stage is ``qa``: root, a network, 256 MiB of memory, ``APP`` in its environment, a tmpfs at ``/scratch``.
"""

from __future__ import annotations

import os
import pathlib
import pickle
import socket
import threading
import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

import pytest_envpar
from pytest_envpar import Container, ContainerFactory
from pytest_envpar.errors import EnvparError

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_S = 60.0


@pytest.fixture
def shared(qa_container_session: Container) -> Container:
    """For tests that leave it usable."""
    return qa_container_session


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.02)


def ended(container: Container) -> bool:
    try:
        container.wait_ready()
    except pytest_envpar.EngineError:
        return True
    return False


# --- what it is


def test_facts(shared: Container) -> None:
    assert isinstance(shared, Container)
    assert shared.stage == "qa"
    assert len(shared.id) == 64
    assert shared.name.startswith("envpar-qa-")
    assert repr(shared) == f"<Container {shared.name} of qa>"
    image = shared.image
    assert image.image_id.startswith("sha256:")
    assert image.platform.startswith("linux/")
    assert image.local
    assert image.digest is None
    assert image.layers
    assert all(layer.startswith("sha256:") for layer in image.layers)
    assert image.short().startswith(image.reference.partition("@")[0])


# --- commands


def test_exec_and_its_result(shared: Container) -> None:
    result = shared.exec(["sh", "-c", "cat; echo $APP; printf '\\377' >&2; exit 3"], input=b"in\0 ")
    assert isinstance(result, pytest_envpar.ExecResult)
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"in\0 shelf\n", b"\xff")
    assert (result.text, result.error_text, result.ok) == ("in\0 shelf\n", "\ufffd", False)
    assert result == pytest_envpar.ExecResult(3, b"in\0 shelf\n", b"\xff")
    assert shared.exec(["cat"], input=b"").stdout == b""
    assert shared.exec(("true",)).ok


def test_exec_with_environment_user_and_folder(shared: Container) -> None:
    result = shared.exec(
        ["sh", "-c", "echo $NAME $APP $(id -u) $(id -g) $(pwd)"],
        env={"NAME": "x y\u00fc"},
        user="1234:99",
        workdir=PurePosixPath("/usr"),
        check=True,
    )
    assert result.text == "x y\u00fc shelf 1234 99 /usr\n"
    assert shared.exec(["pwd"], workdir="/tmp").text == "/tmp\n"


def test_exec_that_fails(shared: Container) -> None:
    with pytest.raises(pytest_envpar.CommandError, match="exit code 7") as caught:
        shared.exec(["sh", "-c", "echo o; printf 'e\\033[1m\\n' >&2; exit 7"], check=True)
    error = caught.value
    assert (error.exit_code, error.stdout, error.stderr) == (7, b"o\n", b"e\033[1m\n")
    assert (error.code, error.detail) == ("command", ("o", "e?[1m"))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.exit_code, again.stderr) == (str(error), 7, error.stderr)


def test_exec_that_takes_too_long(shared: Container) -> None:
    with pytest.raises(pytest_envpar.CommandTimeoutError, match="was killed") as caught:
        shared.exec(["sh", "-c", "echo begun; sleep 4321 & sleep 4321"], timeout=1.0)
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.exit_code, caught.value.stdout) == (None, b"begun\n")
    found = shared.exec(["sh", "-c", "grep -lz '^4321$' /proc/[0-9]*/cmdline 2>/dev/null | wc -l"])
    assert found.text == "0\n"


def test_exec_of_what_cannot_be(shared: Container) -> None:
    wrong: Any
    for wrong in ("ls -l", [], b"ls"):
        with pytest.raises(pytest_envpar.UsageError, match="as a list"):
            shared.exec(wrong)
    with pytest.raises(pytest_envpar.UsageError, match="absolute"):
        shared.exec(["true"], workdir="tmp")


def test_much_goes_in_and_out(shared: Container) -> None:
    data = os.urandom(3_000_000)
    assert shared.exec(["cat"], input=data, timeout=LIMIT_S).stdout == data


def test_popen(shared: Container) -> None:
    with shared.popen(["cat"], env={"A": "b"}, user="1234", workdir="/usr") as process:
        assert isinstance(process, pytest_envpar.Process)
        assert process.args == ("cat",)
        process.write(b"one")
        assert process.read(LIMIT_S) == (1, b"one")
        assert process.poll() is None
        assert process.read(0.01) is None
        with pytest.raises(TimeoutError):
            process.wait(0.01)
        process.close_stdin()
        assert process.read(LIMIT_S) == (0, b"")
        assert process.wait(LIMIT_S) == 0
        assert process.poll() == 0
    process.close()  # safe to repeat
    process = shared.popen(["sh", "-c", "cat; echo err >&2; pwd; exit 5"], workdir="/usr")
    result = process.communicate(b"x\n", LIMIT_S)
    assert (result.exit_code, result.stdout, result.stderr) == (5, b"x\n/usr\n", b"err\n")
    with shared.popen(["sleep", "4322"]) as process:
        assert process.kill()
        assert process.wait(LIMIT_S) == 137
    with shared.popen(["sleep", "4323"]) as process, pytest.raises(pytest_envpar.CommandTimeoutError):
        process.communicate(timeout=0.2)


# --- files


def test_read_and_write(shared: Container) -> None:
    data = os.urandom(3_000_000)
    shared.write("/new/folder/big", data, mode=0o640)
    assert shared.read_bytes(PurePosixPath("/new/folder/big")) == data
    assert shared.exec(["stat", "-c", "%a %u", "/new/folder/big"]).text == "640 0\n"
    shared.write(PurePosixPath("/new/folder/../text"), "gr\u00fcn\n")
    assert shared.read_text("/new/text") == "gr\u00fcn\n"
    assert shared.read_text("/new/text", encoding="latin-1") == "gr\u00c3\u00bcn\n"
    with pytest.raises(UnicodeDecodeError):
        shared.read_text("/new/text", "ascii")
    assert shared.exec(["stat", "-c", "%a", "/new/text"]).text == "644\n"
    shared.exec(["ln", "-sf", "folder/../text", "/new/link"], check=True)
    assert shared.read_text("/new/link") == "gr\u00fcn\n"


def test_a_tmpfs_is_read_and_written(shared: Container, tmp_path: pathlib.Path) -> None:
    shared.write("/scratch/a/b", b"\0data", mode=0o600)
    assert shared.read_bytes("/scratch/a/b") == b"\0data"
    assert shared.exec(["stat", "-c", "%a", "/scratch/a/b"]).text == "600\n"
    with pytest.raises(pytest_envpar.UsageError, match="tmpfs"):
        shared.copy_out("/scratch", tmp_path)
    with pytest.raises(pytest_envpar.UsageError, match="tmpfs"):
        shared.copy_in(tmp_path, "/scratch")


def test_what_cannot_be_read(shared: Container) -> None:
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        shared.read_bytes("/nowhere/at/all")
    with pytest.raises(IsADirectoryError):
        shared.read_text("/etc")
    with pytest.raises(pytest_envpar.UsageError, match="absolute"):
        shared.read_bytes("etc/passwd")
    with pytest.raises(pytest_envpar.UsageError, match="absolute"):
        shared.write("etc/passwd", "")
    shared.exec(["ln", "-sf", "/loop", "/loop"], check=True)
    with pytest.raises(pytest_envpar.UsageError, match="too many"):
        shared.read_bytes("/loop")


def test_copy_in(shared: Container, tmp_path: pathlib.Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "run").write_text("#!/bin/sh\necho ran\n")
    (source / "deep" / "run").chmod(0o755)
    (source / "deep" / "twin").hardlink_to(source / "deep" / "run")
    (source / "link").symlink_to("deep/run")
    (source / "\u00fc \n").write_bytes(b"odd")
    os.mkfifo(source / "pipe")
    shared.copy_in(source, "/opt")
    assert shared.exec(["/opt/source/link"], check=True).text == "ran\n"
    assert shared.exec(["/opt/source/deep/twin"], check=True).text == "ran\n"
    assert shared.read_bytes("/opt/source/\u00fc \n") == b"odd"
    assert shared.exec(["test", "-e", "/opt/source/pipe"]).exit_code == 1
    shared.copy_in(source / "deep" / "run", PurePosixPath("/opt/made/here"))
    assert shared.read_text("/opt/made/here").endswith("ran\n")
    shared.copy_in(source / "deep", "/opt/renamed")
    assert shared.exec(["ls", "/opt/renamed"]).text == "er\nrun\ntwin\n"
    with pytest.raises(pytest_envpar.UsageError, match="does not exist"):
        shared.copy_in(tmp_path / "nothing", "/opt")


def test_copy_out(shared: Container, tmp_path: pathlib.Path) -> None:
    script = (
        "rm -rf /tree; mkdir -p /tree/sub; cd /tree; echo good > good; echo x > suid; chmod 6755 suid;"
        "ln -s /etc/passwd absolute; ln -s ../../outside relative; ln good hard; mkfifo pipe; ln -s good fine"
    )
    shared.exec(["sh", "-c", script], check=True)
    copy = shared.copy_out("/tree", tmp_path / "copy")
    assert copy == tmp_path / "copy"
    assert sorted(path.name for path in copy.iterdir()) == ["fine", "good", "hard", "sub", "suid"]
    assert (copy / "hard").read_text() == "good\n"
    assert str((copy / "fine").readlink()) == "good"
    assert (copy / "suid").stat().st_mode & 0o7777 == 0o755
    (tmp_path / "into").mkdir()
    assert shared.copy_out(PurePosixPath("/tree/fine"), tmp_path / "into") == tmp_path / "into" / "fine"
    assert (tmp_path / "into" / "fine").read_text() == "good\n"
    assert not (tmp_path / "into" / "fine").is_symlink()
    assert shared.copy_out("/tree/sub/../good", tmp_path / "into") == tmp_path / "into" / "good"
    with pytest.raises(FileNotFoundError):
        shared.copy_out("/nothing", tmp_path)
    with pytest.raises(pytest_envpar.UsageError, match="cannot be written"):
        shared.copy_out("/tree/good", tmp_path / "no" / "such" / "folder")
    (tmp_path / "bent" / "tree").mkdir(parents=True)
    (tmp_path / "bent" / "tree" / "sub").symlink_to(tmp_path / "into")
    shared.write("/tree/sub/file", "x")
    with pytest.raises(pytest_envpar.UsageError, match="symbolic link"):
        shared.copy_out("/tree", tmp_path / "bent")
    assert not (tmp_path / "into" / "file").exists()


# --- where it is and what it says

SERVER = (
    "import socket, sys; s = socket.create_server(('0.0.0.0', 8000)); print('one', flush=True);"
    "print('two', file=sys.stderr, flush=True);"
    "[(c.sendall(b'hello'), c.close()) for c, _ in iter(s.accept, None)]"
)
ASK = "import socket; print(socket.create_connection(('127.0.0.1', 8000)).recv(16).decode())"


@pytest.fixture(scope="module")
def server(envpar_containers_module: ContainerFactory) -> Container:
    made = envpar_containers_module.start("qa", command=["python3", "-c", SERVER], ports=[8000, "53/udp"])
    made.wait_ready()
    until(lambda: len(made.logs().splitlines()) == 2)
    return made


def test_logs(server: Container) -> None:
    assert sorted(server.logs().splitlines()) == ["one", "two"]
    assert len(server.logs(tail=1).splitlines()) == 1
    assert server.logs(since=time.time() + 60) == ""
    assert len(server.logs(since=time.time() - 600, tail=5).splitlines()) == 2


def test_port_and_ip(server: Container, shared: Container) -> None:
    address = server.port(8000)
    assert isinstance(address, pytest_envpar.Address)
    assert address.host == "127.0.0.1"
    assert str(address) == f"127.0.0.1:{address.port}"
    assert server.port(53, "udp").host == "127.0.0.1"
    assert server.exec(["python3", "-c", ASK], check=True, timeout=LIMIT_S).text == "hello\n"
    with pytest.raises(
        pytest_envpar.UsageError, match=r"8001/tcp is not published \(published: 53/udp, 8000"
    ):
        server.port(8001)
    ip = server.ip()
    assert ip.version == 4
    assert ip in (server.ip("bridge"), server.ip(network="bridge"))
    with pytest.raises(pytest_envpar.UsageError, match="'nowhere'"):
        server.ip("nowhere")
    ask = ["python3", "-c", ASK.replace("127.0.0.1", str(ip))]
    assert shared.exec(ask, check=True, timeout=LIMIT_S).text == "hello\n"


def test_a_published_port_is_reached_from_the_engines_machine(
    server: Container, envpar_stage: object
) -> None:
    if envpar_stage is not None:
        pytest.skip("a stage has a network of its own")

    def greeted() -> bool:
        with socket.create_connection(server.port(8000), timeout=5) as client:
            return client.recv(16) == b"hello"

    until(greeted)


def test_stats(shared: Container) -> None:
    used = shared.stats()
    assert isinstance(used, pytest_envpar.Stats)
    assert used.memory_bytes > 0
    assert used.memory_limit_bytes == 256 << 20
    assert used.pids >= 1
    assert used.cpu_s > 0
    assert min(used.received_bytes, used.sent_bytes) >= 0


# --- its life


def test_pause_and_unpause(shared: Container) -> None:
    shared.pause()
    with pytest.raises(pytest_envpar.ConflictError):
        shared.pause()
    with pytest.raises(pytest_envpar.ConflictError):
        shared.exec(["true"])
    shared.unpause()
    assert shared.exec(["true"]).ok


def test_stop_restart_and_wait_ready(qa_container: Container) -> None:
    qa_container.write("/kept", "x")
    qa_container.stop(timeout=60)
    qa_container.stop()
    with pytest.raises(pytest_envpar.EngineError, match="ended with exit code 0"):
        qa_container.wait_ready()
    with pytest.raises(pytest_envpar.ConflictError):
        qa_container.exec(["true"])
    assert qa_container.read_text("/kept") == "x"
    qa_container.restart()
    qa_container.wait_ready(LIMIT_S)
    assert qa_container.exec(["cat", "/kept"]).text == "x"


def test_kill(envpar_containers: ContainerFactory) -> None:
    script = "trap 'echo heard' USR1; echo up; while :; do sleep 0.05; done"
    one = envpar_containers.start("qa", command=["sh", "-c", script])
    until(lambda: "up" in one.logs())
    one.kill("USR1")
    until(lambda: "heard" in one.logs())
    one.kill(signal="KILL")
    until(lambda: ended(one))
    with pytest.raises(pytest_envpar.EngineError, match="ended with exit code 137"):
        one.wait_ready()
    with pytest.raises(pytest_envpar.ConflictError):
        one.kill()


def test_what_is_removed_is_gone(envpar_containers: ContainerFactory) -> None:
    with envpar_containers.start("qa") as one:
        process = one.popen(["sleep", "4324"])
    one.remove()  # safe to repeat; and the factory does so once more
    for call in (lambda: one.exec(["true"]), lambda: one.read_bytes("/etc/passwd"), one.restart, one.changes):
        with pytest.raises(pytest_envpar.NotFoundError):
            call()
    process.close()


# --- its past, and others


def test_checkpoint_and_restore(envpar_containers: ContainerFactory) -> None:
    one = envpar_containers.start("qa", env={"ROLE": "first"})
    one.write("/rows", "1")
    point = one.checkpoint("contract")
    assert isinstance(point, pytest_envpar.Checkpoint)
    assert (point.name, point.stage, point.parent_id) == ("contract", "qa", one.image.image_id)
    one.write("/rows", "spoilt")
    with one.restore(point) as other:
        assert (other.read_text("/rows"), other.stage) == ("1", "qa")
        assert other.exec(["printenv", "ROLE"]).text == "first\n"
        assert other.image.image_id == point.image_id
        assert other.checkpoint("contract-again").parent_id == point.image_id
    assert envpar_containers.restore("contract").read_text("/rows") == "1"
    found = envpar_containers.checkpoint("contract")
    assert found == point
    one.remove()
    again = envpar_containers.restore(point)  # of a container that is gone
    assert again.read_text("/rows") == "1"
    assert envpar_containers.checkpoint("none") is None
    with pytest.raises(pytest_envpar.UsageError, match="there is no checkpoint 'none'"):
        envpar_containers.restore("none")
    with pytest.raises(pytest_envpar.UsageError, match="cannot be a checkpoint's name"):
        again.checkpoint("a/b")


def test_a_checkpoint_whose_name_was_taken_over(envpar_containers: ContainerFactory) -> None:
    one = envpar_containers.start("qa")
    one.write("/rows", "1")
    first = one.checkpoint("taken")
    user = one.restore(first)
    one.write("/rows", "2")
    second = one.checkpoint("taken")
    assert second.image_id != first.image_id
    assert envpar_containers.restore("taken").read_text("/rows") == "2"
    with user, user.restore(first) as other:  # in use, so that it is still there
        assert other.read_text("/rows") == "1"


def test_changes(qa_container: Container) -> None:
    assert list(qa_container.changes()) == []
    qa_container.write("/etc/app.conf", "debug = true\n")
    qa_container.exec(["rm", "/etc/issue"], check=True)
    qa_container.exec(["chmod", "600", "/etc/hostname-of-nobody"])
    qa_container.exec(["sh", "-c", "echo more >> /etc/profile"], check=True)
    qa_container.write("/usr/lib/__pycache__/x.pyc", b"")
    changes = qa_container.changes()
    assert isinstance(changes, pytest_envpar.Changes)
    assert [(change.path, change.kind) for change in changes] == [
        (PurePosixPath("/etc/app.conf"), "added"),
        (PurePosixPath("/etc/issue"), "removed"),
        (PurePosixPath("/etc/profile"), "modified"),
    ]
    assert (len(changes), changes.count("added"), changes.items[0].noise) == (3, 1, None)
    assert {change.noise for change in changes.noise} == {"bytecode"}


def test_diff(shared: Container, envpar_containers: ContainerFactory) -> None:
    one, two = envpar_containers.start_many(2, "qa")
    assert two.diff(two).changes == ()
    two.write("/opt/app.conf", "x")
    one.exec(["chmod", "600", "/etc/issue"], check=True)
    one.exec(["sh", "-c", "mknod /opt/zero c 1 5; ln -s zero /opt/link; rm /etc/debian_version"], check=True)
    made = one.diff(two)
    assert isinstance(made, pytest_envpar.Comparison)
    assert (made.left, made.right) == (one.name, two.name)
    assert made.route in ("layers", "scan", "export")
    assert made.why
    found = {change.path: change for change in made.changes}
    assert {path: change.kind for path, change in found.items()} == {
        "/etc/debian_version": "added",
        "/etc/issue": "modified",
        "/opt/app.conf": "added",
        "/opt/link": "removed",
        "/opt/zero": "removed",
    }
    issue = found["/etc/issue"]
    assert issue.attributes == ("mode",)
    assert issue.before is not None
    assert issue.after is not None
    assert (issue.before.mode, issue.after.mode) == (0o600, 0o644)
    assert issue.before.digest == issue.after.digest
    conf, zero, link = (found[f"/opt/{name}"] for name in ("app.conf", "zero", "link"))
    assert conf.before is None
    assert conf.after is not None
    assert (conf.after.type, conf.after.size, conf.after.uid) == ("file", 1, 0)
    assert zero.before is not None
    assert (zero.before.type, zero.before.device) == ("character", (1, 5))
    assert link.before is not None
    assert (link.before.type, link.before.target) == ("link", "zero")
    assert "/scratch" in {note.path for note in made.not_compared}
    one.remove()
    with pytest.raises(pytest_envpar.NotFoundError):
        two.diff(one)


def test_manifest(qa_container: Container) -> None:
    qa_container.write("/opt/app.conf", "x", mode=0o640)
    made = qa_container.manifest()
    assert isinstance(made, pytest_envpar.Manifest)
    entries = {entry.path: entry for entry in made}
    assert len(entries) == made.count > 5000
    conf = entries["/opt/app.conf"]
    assert (conf.type, conf.mode, conf.uid, conf.gid, conf.size) == ("file", 0o640, 0, 0, 1)
    assert conf.digest == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert entries["/bin"].type in ("link", "directory")
    here = pathlib.Path(__file__).parent
    assert not any(path.startswith((f"{here}/", "/scratch/", "/.envpar/")) for path in entries)
    assert next(iter(made)).path == "/"  # iterated once more
    print("fingerprint", made.fingerprint)


# --- many


def test_many_threads(envpar_containers: ContainerFactory) -> None:
    some = envpar_containers.start_many(3, "qa", env={"ROLE": "client"})
    assert len({each.name for each in some}) == 3
    assert envpar_containers.started == some
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda n=number: found.append(some[n % 3].exec(["sh", "-c", f"echo $ROLE {n}"]).text)
        )
        for number in range(9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [f"client {number}\n" for number in range(9)]


def test_an_image_and_what_the_factory_refuses(
    envpar_containers: ContainerFactory, shared: Container
) -> None:
    one = envpar_containers.start(image=shared.image.reference, env={"A": "b"})
    assert one.stage is None
    assert one.exec(["printenv", "A"]).text == "b\n"
    assert one.exec(["printenv", "APP"]).exit_code == 1
    with pytest.raises(pytest_envpar.UsageError, match="not both"):
        envpar_containers.start("qa", image="x")
    with pytest.raises(pytest_envpar.UsageError, match="0 containers"):
        envpar_containers.start_many(0)
    with pytest.raises(pytest_envpar.UsageError, match="list of words"):
        envpar_containers.start("qa", command="ls -l")
    with pytest.raises(EnvparError):
        envpar_containers.start_many(3, "qa", command=["/no/such/program"])
