"""Services on Podman: a whole run beside them, and what is told where its networks let nothing pass."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from rig.programs import ECHO

if TYPE_CHECKING:
    from .projects import Project

pytestmark = pytest.mark.engine

SUITE = """
import os, socket, time
def ask(text, name):
    with socket.create_connection((name, 8000), 10) as peer:
        peer.sendall(text.encode())
        return peer.recv(1000).decode()
def test_answers(envpar_services):
    assert ask("a", os.environ["ENVPAR_DB_HOST"]) == "a"
    assert ask("b", envpar_services["queue"].host) == "b"
def test_fails():
    ask("meanwhile", "db")
    time.sleep(1)  # what it said is heard by then
    assert 0
def test_crash():
    ask("last words", "db")
    time.sleep(1)
    os._exit(1)
def test_goes_on():
    assert ask("new container, old service", "queue")
"""


def configure(project: Project, *, network: str, ready: str = "{ tcp = 8000, timeout = 60 }") -> None:
    command = json.dumps(["python3", "-u", "-c", ECHO])
    lines = [
        'engine = "podman"',
        "[stages.qa]",
        f'image = "{project.image}"',
        network,
        "[stages.qa.services.db]",
        f'image = "{project.image}"',
        f"command = {command}",
        f"ready = {ready}",
        "[stages.qa.services.queue]",
        f'image = "{project.image}"',
        f"command = {command}",
        'ready = { log = "^listening$" }',
    ]
    project.write("envpar.toml", "\n".join([*lines, ""]))


def test_a_run_beside_services(podman_project: Project) -> None:
    project = podman_project
    configure(project, network="")
    project.write("test_it.py", SUITE)
    result = project.run()
    assert result.counts == {"failed": 2, "passed": 2}, result.text
    assert "envpar: services db " in result.text
    # Podman tells whole seconds: what came before or after in the same one may be among them.
    sections = re.findall(r"^-+ service db -+\n((?:heard .*\n)*)", result.text, re.MULTILINE)
    assert len(sections) == 2, result.text
    for section, heard in zip(sections, ("meanwhile", "last words"), strict=True):
        assert f"heard {heard}" in section.splitlines(), result.text


def test_a_network_without_a_way_out(podman_project: Project) -> None:
    """Beside Docker's firewall rules nothing passes there; where it does, the run is as any other."""
    project = podman_project
    configure(project, network='network = "none"', ready="{ tcp = 8000, timeout = 5 }")
    project.write("test_it.py", SUITE)
    result = project.run()
    if result.counts == {"failed": 2, "passed": 2}:
        return
    assert result.code == 4, result.text
    assert (
        "service 'db' was not ready within 5 s: waited for a connection to port 8000 (timed out)"
        in result.text
    )
    assert (
        'firewall rules drop what is forwarded, as Docker\'s do on the same machine: remove network = "none"'
        in (result.text)
    )
    assert "listening" in result.text  # its log: it is not to blame


def test_an_early_end(podman_project: Project) -> None:
    project = podman_project
    configure(project, network="")
    text = (project.root / "envpar.toml").read_text(encoding="utf-8")
    command = json.dumps(["python3", "-c", "print('bad setting'); raise SystemExit(3)"])
    text = re.sub(r"command = .*", lambda _: f"command = {command}", text, count=1)
    (project.root / "envpar.toml").write_text(text, encoding="utf-8")
    project.write("test_it.py", SUITE)
    result = project.run()
    assert result.code == 4, result.text
    assert "service 'db' ended with exit code 3 before it was ready" in result.text
    assert "bad setting" in result.text


@pytest.mark.slow
def test_what_a_killed_run_leaves_is_swept(podman_project: Project) -> None:
    project = podman_project
    configure(project, network="")
    project.write(
        "test_it.py",
        """
        import os, time
        def test_held():
            os.write(1, b"now held")
            time.sleep(float(os.environ.get("HOLD", "100")))
        """,
    )
    run = project.start("-s")
    run.wait_for("now held")
    assert {"container", "network"} <= {each.type for each in project.left()}
    run.process.kill()
    run.end()
    # Any other run on this machine may sweep it, too.
    assert {each.state for each in project.left()} <= {"dead"}
    project.write("test_it.py", "def test_a(): pass\n")
    assert project.start().end().clean().code == 0
    project.until_swept()
