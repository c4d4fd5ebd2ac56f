"""Limits of a stage, each proven by a suite that runs into it, and named in the report of the test that did."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.worker.agent.limits import mount_of, mounts

if TYPE_CHECKING:
    from .projects import Project

pytestmark = pytest.mark.engine


def limits(text: str) -> list[list[str]]:
    """The lines of each report's section on limits."""
    found = re.findall(
        r"^-+ limits of the container -+\n(.*?)(?=^[-=_]{3,}|\Z|^envpar: )", text, re.MULTILINE | re.DOTALL
    )
    return [section.strip().splitlines() for section in found]


def test_each_limit_that_bites_names_itself(project: Project) -> None:
    project.stage(
        "pids = 48",
        'tmpfs = ["/small:size=1m", "/child:size=1m"]',
        'shm-size = "2m"',
        "ulimits = { nofile = 64 }",
        'cap-drop = ["CHOWN"]',
        "read-only = true",
        'memory = "128m"',
    )
    result = project.suite(
        """
        import os, subprocess, sys, time

        def test_expected():
            children = []
            try:
                while True:
                    children.append(os.posix_spawn("/bin/sleep", ["sleep", "60"], {}))
            except BlockingIOError:
                pass
            finally:
                for child in children:
                    os.kill(child, 9)
                    os.waitpid(child, 0)

        def test_has_nothing_to_do_with_limits():
            assert 0

        def test_fork_bomb():
            children = []
            try:
                for _ in range(500):
                    children.append(os.posix_spawn("/bin/sleep", ["sleep", "60"], {}))
            finally:
                for child in children:
                    os.kill(child, 9)
                    os.waitpid(child, 0)

        def test_tmpfs():
            with open("/small/file", "wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))

        def test_tmpfs_of_a_child():
            os.remove("/small/file")
            subprocess.run(["dd", "if=/dev/zero", "of=/child/file", "bs=64k"], check=True)

        def test_shm():
            os.remove("/child/file")
            with open("/dev/shm/file", "wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))

        def test_read_only():
            os.remove("/dev/shm/file")
            open("/etc/new", "w")

        def test_capability():
            os.chown("/small", 1000, 1000)

        def test_memory_of_a_child():
            subprocess.run([sys.executable, "-c", "hold = b'x' * (1 << 28)"], check=True)

        def test_open_files():
            held = []
            try:
                while True:
                    held.append(open("/dev/null"))
            finally:
                for file in held:
                    file.close()
        """
    )
    assert result.line == "9 failed, 1 passed", result.text
    found = limits(result.out)
    assert [lines[0] for lines in found[:6]] == [
        "pids limit 48 reached",
        "no space left: /small is a tmpfs of 1m",
        "no space left: /child is a tmpfs of 1m",
        "no space left: /dev/shm is a tmpfs of 2m",
        "read-only: the container's root (the key read-only), /etc/new",
        "not permitted: the stage drops capabilities (CHOWN)",
    ]
    assert re.match(r"memory limit 128m reached: a process was killed, peak 12[0-9.]+m", found[6][0])
    assert found[7] == ["ulimit nofile 64 reached"]
    assert all(len(lines) == 1 for lines in found)
    assert len(found) == 8
    assert "the worker died" not in result.out


def test_a_worker_that_a_limit_kills(project: Project) -> None:
    project.stage(
        "pids = 48",
        'tmpfs = ["/small:size=1m"]',
        f"ulimits = {{ cpu = 3, fsize = {1 << 20}, data = {1 << 28} }}",
    )
    result = project.suite(
        """
        import os, signal

        def test_processor_time():
            while True:
                pass

        def test_file_size():
            with open("/tmp/file", "wb") as file:
                file.write(bytes(2 << 20))

        def test_file_size_as_in_other_languages():
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            test_file_size()

        def test_data():
            bytearray(1 << 30)

        def test_processes():
            # As a library ends that cannot start its threads, with a disk that is full as well.
            with open("/small/file", "wb", buffering=0) as file:
                file.write(bytes(2 << 20))
            try:
                for _ in range(500):
                    os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
            except BlockingIOError:
                os.abort()

        def test_by_itself():
            os.remove("/small/file")
            os.kill(os.getpid(), signal.SIGKILL)

        def test_goes_on():
            pass
        """
    )
    assert result.line == "6 failed, 1 passed", result.text
    causes = re.findall(r"^(?:cause|limit of the container): (.*)", result.out, re.MULTILINE)
    assert causes == [
        "killed: ulimit cpu 3 reached (signal 9, SIGKILL)",
        f"killed: ulimit fsize {1 << 20} reached (signal 25, SIGXFSZ)",
        "killed by signal 6 (SIGABRT)",
        "pids limit 48 reached",
        "no space left: /small is a tmpfs of 1m",
        "killed by signal 9 (SIGKILL)",
    ]
    assert limits(result.out) == [[f"ulimit fsize {1 << 20} reached"], [f"ulimit data {1 << 28} reached"]]


@pytest.mark.slow
def test_share_of_the_processor(project: Project) -> None:
    project.stage("cpus = 0.25")
    project.suite(
        """
        import time
        def test_share():
            wall, used = time.monotonic(), time.process_time()
            while time.process_time() - used < 0.5:
                pass
            # Other work on the machine can only lower the share.
            assert 0.5 / (time.monotonic() - wall) < 0.35
        """
    ).ok()


def test_containers_cannot_see_each_other(project: Project) -> None:
    project.stage(
        f'image = "{project.image}"',
        "[stages.qa.services.other]",
        f'image = "{project.image}"',
        'command = ["sleep", "300"]',
    )
    project.suite(
        """
        import os, socket
        def test_processes():
            names = [open("/proc/%s/cmdline" % pid).read() for pid in os.listdir("/proc") if pid.isdigit()]
            assert not [name for name in names if name.startswith("sleep")]
        def test_host_name():
            assert socket.gethostname() != "other"
        def test_mounts_and_users():
            assert not os.path.exists("/var/run/docker.sock")
            assert "docker.sock" not in open("/proc/self/mountinfo").read()
        """
    ).ok()


def test_mount_table() -> None:
    table = mounts(
        "1 0 0:1 / / ro,relatime master:9 - overlay overlay rw,lowerdir=/x\n"
        "2 1 0:2 / /with\\040space rw - tmpfs tmpfs rw,size=1536k\n"
        "nonsense\n"
        "3 1 0:3 / /dev/shm rw - tmpfs shm rw,size=65536k\n"
    )
    assert [(mount.path, mount.read_only, mount.size) for mount in table] == [
        ("/", True, None),
        ("/with space", False, "1.5m"),
        ("/dev/shm", False, "64m"),
    ]
    assert mount_of("/with space/x", table) == table[1]
    assert mount_of("/with", table) == table[0]
