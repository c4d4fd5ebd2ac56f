"""What one container can see of another: nothing, and what two runs on one engine share: nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.containers.sweep import list_ours

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .projects import Project

pytestmark = pytest.mark.engine

SUITE = '''
import pytest

FACTS = """
import json, os, pwd, socket
running = set()
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        running.add(open("/proc/%s/cmdline" % pid, "rb").read().replace(bytes(1), b" ").decode())
    except OSError:
        pass
try:
    socket.create_connection(("127.0.0.1", 4711), 2).close()
    reached = True
except OSError:
    reached = False
print(json.dumps({
    "host": socket.gethostname(),
    "running": sorted(running),
    "users": sorted(each.pw_name for each in pwd.getpwall()),
    "mounts": sorted(line.split()[1] for line in open("/proc/mounts")),
    "files": sorted(os.listdir("/srv")),
    "reached": reached,
}))
"""
SERVER = """
import socket
server = socket.create_server(("127.0.0.1", 4711))
print("listening", flush=True)
while True:
    server.accept()[0].close()
"""

@pytest.fixture
def pair(envpar_containers):
    one, other = envpar_containers.start_many(2, "qa")
    one.exec(["sh", "-c", "useradd marked && touch /srv/marked"], user="root", check=True)
    with one.popen(["python3", "-c", SERVER]) as server:
        assert server.read() == (1, b"listening\\n")
        yield one, other

def test_pair(pair):
    import json
    one, other = (json.loads(each.exec(["python3", "-c", FACTS], check=True).text) for each in pair)
    assert one["host"] != other["host"]
    assert any("listening" in each for each in one["running"])
    assert not any("listening" in each for each in other["running"])
    assert one["reached"] and not other["reached"]
    assert "marked" in one["users"] and "marked" not in other["users"]
    assert one["files"] == ["marked"] and other["files"] == []

def test_mounts(envpar_containers):
    import json
    one, other = envpar_containers.start("qa"), envpar_containers.start("bare")
    one, other = (json.loads(each.exec(["python3", "-c", FACTS], check=True).text) for each in (one, other))
    assert "/scratch" in one["mounts"] and "/scratch" not in other["mounts"]

def test_the_engine_is_not_inside(envpar_containers):
    one = envpar_containers.start("qa")
    found = one.exec(["sh", "-c", "ls -a /run /var/run /tmp; cat /proc/mounts; env"], check=True).text
    assert "docker.sock" not in found and "podman.sock" not in found
    status = one.exec(["grep", "NoNewPrivs", "/proc/self/status"], check=True).text
    assert status.split() == ["NoNewPrivs:", "1"]
'''


def test_a_container_sees_nothing_of_another(project: Project) -> None:
    image = f'image = "{project.image}"\nnetwork = "none"'
    project.stage(image, 'tmpfs = ["/scratch"]', "[stages.bare]", image)
    project.suite(SUITE, "-q", stage="").ok()


def test_two_runs_at_once_share_nothing(make_project: Callable[[Path], Project], tmp_path: Path) -> None:
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    projects = [make_project(tmp_path / "one"), make_project(tmp_path / "other")]
    for number, each in enumerate(projects):
        each.stage(f'volumes = ["{meeting}:/meeting"]')
        # Each waits for the other: both have their containers at the same time.
        each.write(
            "test_a.py",
            f"""
            import os, pathlib, socket, time
            def test_a():
                pathlib.Path("/srv/mine").touch(exist_ok=False)
                pathlib.Path("/meeting/{number}").touch()
                deadline = time.monotonic() + 60
                while not pathlib.Path("/meeting/{1 - number}").exists():
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                print("HOST", socket.gethostname())
            """,
        )
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda each: each.run("-rP"), projects))
    hosts = {line for run in runs for line in run.ok().out.splitlines() if line.startswith("HOST")}
    assert len(hosts) == 2
    roots = {str(each.root) for each in projects}
    assert not [
        each for each in list_ours(projects[0].engine) if each.project in roots and each.state != "cache"
    ]
