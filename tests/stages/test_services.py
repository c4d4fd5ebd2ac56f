"""Services beside a stage: started, awaited, reached by name, listened to, removed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rig.needs import images
from rig.programs import ECHO

from pytest_envpar.containers.labels import SERVICE
from pytest_envpar.containers.sweep import list_ours, sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_envpar.engine.api import Engine

    from .projects import Project

pytestmark = pytest.mark.engine

ASK = """
import os, socket
def ask(text, name="db"):
    with socket.create_connection((name, 8000), 10) as peer:
        peer.sendall(text.encode())
        return peer.recv(1000).decode()
"""
OURS = ("INTERNALERROR", "pytest_envpar/session", "pytest_envpar/containers")
TCP = "ready = { tcp = 8000 }"
POSTGRES = (
    "echo 'host all all all trust' >> /etc/postgresql/15/main/pg_hba.conf; exec runuser -u postgres -- "
    "/usr/lib/postgresql/15/bin/postgres -D /var/lib/postgresql/15/main -c fsync=off -c listen_addresses='*' "
    "-c config_file=/etc/postgresql/15/main/postgresql.conf -c unix_socket_directories=/tmp"
)


def service(project: Project, name: str, code: str, *lines: str) -> str:
    """The table of a service that runs Python code."""
    command = json.dumps(["python3", "-u", "-c", code])
    body = [f'image = "{project.image}"', f"command = {command}", *lines]
    return "\n".join([f"[stages.qa.services.{name}]", *body, ""])


def configure(project: Project, *services: str, stage: Sequence[str] = ()) -> None:
    """A stage ``qa`` with these services."""
    project.stage(f'image = "{project.image}"', *stage, *services)


def told(text: str, title: str) -> str:
    """The section of this title in pytest's output."""
    found = re.search(rf"^-+ {re.escape(title)} -+\n(.*?)(?=^[-=_]{{3,}})", text, re.MULTILINE | re.DOTALL)
    return "" if found is None else found[1]


def test_real_servers(project: Project, servers: str) -> None:
    project.stage(
        f'image = "{servers}"',
        "[stages.qa.services.db]",
        f'image = "{servers}"',
        f"command = {json.dumps(['sh', '-c', POSTGRES])}",
        "ready = { tcp = 5432 }",
        "[stages.qa.services.cache]",
        f'image = "{servers}"',
        'command = ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]',
        'ready = { log = "Ready to accept connections" }',
        "[stages.qa.services.web]",
        f'image = "{servers}"',
        'command = ["nginx", "-g", "daemon off;"]',
        'ready = { http = "/" }',
    )
    project.suite(
        """
        import os, socket, subprocess, urllib.request

        def test_postgres(envpar_services):
            db = envpar_services["db"]
            command = ["psql", "-h", db.host, "-p", str(db.port), "-U", "postgres", "-Atc", "select 6 * 7"]
            assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout == b"42\\n"

        def test_redis():
            with socket.create_connection(("cache", 6379)) as peer:
                peer.sendall(b"PING\\r\\n")
                assert peer.recv(100) == b"+PONG\\r\\n"
                # An empty word of its command: it saves nothing.
                peer.sendall(b"CONFIG GET save\\r\\n")
                assert peer.recv(100) == b"*2\\r\\n$4\\r\\nsave\\r\\n$0\\r\\n\\r\\n"

        def test_nginx():
            address = "http://%s:%s/" % (os.environ["ENVPAR_WEB_HOST"], os.environ["ENVPAR_WEB_PORT"])
            assert b"nginx" in urllib.request.urlopen(address).read()
        """
    ).ok()


def test_the_example(project: Project, servers: str) -> None:
    (project.root / "envpar.toml").unlink()
    ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache", "envpar.lock")
    example = Path(__file__).parents[2] / "examples" / "guestbook"
    shutil.copytree(example, project.root, ignore=ignored, dirs_exist_ok=True)
    text = (project.root / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"{servers}"' in text
    project.write("pyproject.toml", text.replace("envpar-base:py3.11", project.image))
    assert project.run(stage="integration").ok().line == "19 passed"
    # Without the database only what needs none.
    assert project.run(stage="dev").ok().line == "8 passed, 11 skipped"


def test_suite_is_told_where_services_are_and_what_it_sets_itself_wins(project: Project) -> None:
    configure(
        project,
        service(project, "db", ECHO, TCP),
        service(project, "message-queue", ECHO, 'ready = { log = "^listening$" }'),
        stage=['env = { ENVPAR_DB_HOST = "other" }'],
    )
    result = project.suite(
        ASK
        + """
def test_variables():
    assert os.environ["ENVPAR_DB_HOST"] == "other"
    assert os.environ["ENVPAR_DB_PORT"] == "8000"
    assert os.environ["ENVPAR_MESSAGE_QUEUE_HOST"] == "message-queue"
    assert "ENVPAR_MESSAGE_QUEUE_PORT" not in os.environ

def test_fixture(envpar_services):
    assert list(envpar_services) == ["db", "message-queue"]
    db, queue = envpar_services.values()
    assert (db.name, db.host, db.port, db.address) == ("db", "db", 8000, "db:8000")
    assert (queue.port, queue.address) == (None, "message-queue")

def test_names_are_known():
    assert ask("a") == "a"
    assert ask("b", "message-queue") == "b"

def test_nothing_else_is_reached():
    try:
        socket.create_connection(("192.0.2.1", 80), 1)
    except OSError:
        pass
    else:
        assert not "reached"
""",
    )
    result.ok()
    assert "envpar: services db " in result.out


def test_fixture_skips_outside_of_a_stage(project: Project) -> None:
    project.write("test_it.py", "def test_a(envpar_services): pass\n")
    result = project.run("-rs", stage=None)
    assert result.line == "1 skipped"
    assert "services belong to a stage: run with --env=STAGE" in result.out


def test_early_end_is_told_at_once_with_the_log(project: Project) -> None:
    configure(
        project,
        service(
            project,
            "db",
            "print('bad\\x1b[31m setting'); raise SystemExit(3)",
            "ready = { tcp = 1, timeout = 500 }",
        ),
        service(project, "other", ECHO, TCP),
    )
    result = project.suite("def test_a(): pass")
    result.refused(
        "stage 'qa': service 'db' ended with exit code 3 before it was ready: waited for a connection to port 1",
        "[service]",
        "the last lines of db:",
        " setting",
    )
    assert "\x1b" not in result.err


def test_end_of_a_service_without_ready_is_no_success(project: Project) -> None:
    configure(
        project,
        service(project, "once", "print('done')"),
        service(project, "slow", "import time; time.sleep(600)", "ready = { tcp = 1, timeout = 500 }"),
    )
    project.suite("def test_a(): pass").refused("service 'once' ended with exit code 0 before the first test")


@pytest.mark.parametrize(
    ("ready", "waited"),
    [
        ("tcp = 1, timeout = 1", "a connection to port 1 (connection refused)"),
        ('log = "never", timeout = 1', "a line of its log that matches 'never'"),
        pytest.param(
            'http = "/x", port = 8000, timeout = 1',
            "any status below 400 from http port 8000, path /x (no HTTP answer",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            'command = ["sh", "-c", "echo not me >&2; exit 4"], timeout = 1',
            "to end with 0 (exit code 4: not me)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_time_limit_names_what_was_waited_for(project: Project, ready: str, waited: str) -> None:
    configure(project, service(project, "db", ECHO, f"ready = {{ {ready} }}"))
    result = project.suite("def test_a(): pass")
    result.refused("service 'db' was not ready within 1 s: waited for ", waited, "the last lines of db:")


def test_readiness_by_status_command_and_health_check(project: Project, built: list[str]) -> None:
    serve = (
        "import http.server as h\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(503 if len(seen) < 3 else 418); self.end_headers(); seen.append(1)\n"
        "seen = []\n"
        "h.HTTPServer(('', 8000), H).serve_forever()\n"
    )
    late = "import time; time.sleep(0.5); open('/there', 'w').close(); time.sleep(600)"
    project.write("image/Dockerfile", f"FROM {project.image}\nEXPOSE 9000\nHEALTHCHECK CMD test -e /there\n")
    built.append("envpar-test-healthy:1")
    subprocess.run(
        ["docker", "build", "-q", "-t", built[0], str(project.root / "image")],
        check=True,
        capture_output=True,
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
    )
    configure(
        project,
        service(project, "web", serve, 'ready = { http = "/", port = 8000, status = 418 }'),
        service(project, "told", late, 'ready = { command = ["test", "-e", "/there"] }'),
        service(project, "healthy", late, "ready = { healthcheck = true }").replace(project.image, built[0]),
    )
    project.suite(
        """
        import os
        def test_a():
            assert os.environ["ENVPAR_HEALTHY_PORT"] == "9000"
        """
    ).ok()


def test_image_without_a_health_check_is_refused(project: Project) -> None:
    configure(project, service(project, "db", ECHO, "ready = { healthcheck = true }"))
    project.suite("def test_a(): pass").refused("has no health check", "use tcp, log, http or command")


def test_log_of_the_time_of_a_failing_test_is_in_its_report(project: Project) -> None:
    configure(project, service(project, "db", ECHO, TCP), service(project, "quiet", ECHO, TCP))
    result = project.suite(
        ASK
        + """
import time
from pathlib import Path
def test_fine():
    ask("before")
    time.sleep(0.3)
def test_bad():
    ask("mean\\x1bwhile")
    assert 0
def test_fine_again():
    time.sleep(0.3)
    ask("after")
    time.sleep(0.3)
def test_crash():
    ask("last words")
    os._exit(1)
def test_goes_on():
    assert ask("new container, old service")
""",
    )
    assert result.line == "2 failed, 3 passed"
    assert told(result.out, "service db").strip() == r"heard mean\x1bwhile"
    crash = result.out.split("test_crash crashed the worker")[1]
    assert "heard last words" in told(crash, "service db")
    assert "heard before" not in result.out
    assert "heard after" not in result.out
    assert "service quiet" not in result.out


def test_failing_tests_say_that_a_service_died(project: Project) -> None:
    configure(project, service(project, "db", ECHO, TCP))
    result = project.suite(
        ASK
        + """
import pytest, time
# Not by its name: that of a service that is gone is looked up outside, which takes ten seconds to fail.
ADDRESS = socket.gethostbyname("db")
def there():
    socket.create_connection((ADDRESS, 8000), 0.3).close()
def test_kills():
    with pytest.raises(Exception):
        assert ask("die") != ""
    for _ in range(600):
        try:
            there()
        except ConnectionRefusedError:
            time.sleep(0.05)  # the process has ended, and the container has not
        except OSError:
            break
    time.sleep(0.5)  # the host hears of it from the engine
    assert 0
def test_after():
    there()
def test_needs_none():
    pass
""",
    )
    assert result.line == "2 failed, 1 passed"
    assert "db ended with exit code 7 while this test ran" in result.out
    assert re.search(r"db ended with exit code 7 [\d.]+ s before this test", result.out)
    assert "envpar: service db ended with exit code 7 during the run" in result.out


def test_services_are_locked_with_the_stage(project: Project, engine: Engine, built: list[str]) -> None:
    info = engine.inspect_image(project.image)
    assert info is not None
    built.append("envpar-test-locked:1")
    engine.tag_image(info.id, built[0])
    table = service(project, "db", ECHO, TCP).replace(project.image, built[0])
    configure(project, table)
    project.suite("def test_a(): pass").ok()
    lock = (project.root / "envpar.lock").read_text(encoding="utf-8")
    assert f'[stages.qa.services]\n"{built[0]}" = "local {info.id}"\n' in lock
    # The tag moves: the locked image is what runs, also where only what is locked may.
    images(engine, ["envpar-base:py3.13"])
    other = engine.inspect_image("envpar-base:py3.13")
    assert other is not None
    engine.tag_image(other.id, built[0])
    result = project.run(CI="1").ok()
    assert f"services db {built[0]} (local {info.id[:19]})" in result.out
    configure(project, table, service(project, "more", ECHO, TCP))
    project.run(CI="1").refused(f"service image added: {project.image}", "[lock]")
    configure(project, table)
    assert f"service image {built[0]}" in project.run("--env-update").ok().err
    assert other.id in (project.root / "envpar.lock").read_text(encoding="utf-8")


def test_networks_that_go_together(project: Project, engine: Engine) -> None:
    configure(project, service(project, "db", ECHO, TCP), stage=['network = "host"'])
    project.suite("def test_a(): pass").refused("leaves no room for the network of its services", "[service]")
    name = f"envpar-test-{os.getpid()}"
    engine.create_network(name, labels={})
    try:
        configure(project, service(project, "db", ECHO, TCP), stage=[f'network = "{name}"'])
        project.suite(
            """
            import socket
            SEEN = "print(open('/proc/net/fib_trie').read().count('/32 host LOCAL'), socket.gethostbyname('db'))"
            def test_a():
                addresses = open("/proc/net/fib_trie").read().count("/32 host LOCAL")
                assert socket.gethostbyname("db")
                assert addresses >= 6  # the loopback and two networks, each told twice
            def test_b(qa_container):
                seen = qa_container.exec(["python3", "-c", "import socket; " + SEEN], check=True).text.split()
                assert int(seen[0]) >= 6
            """
        ).ok()
    finally:
        engine.remove_network(name)


def test_a_shell_has_them_beside_it(project: Project, engine: Engine) -> None:
    configure(project, service(project, "db", ECHO, TCP))
    code = ASK + "print(ask('typed', os.environ['ENVPAR_DB_HOST']))"
    command = [sys.executable, "-m", "pytest_envpar", "shell", "qa", "--", "python3", "-c", code]
    done = subprocess.run(
        command,
        cwd=project.root,
        env=project.environ,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "typed\n"), done.stderr
    assert ours(engine, project.root) == []


def test_a_network_that_is_taken_away(project: Project, engine: Engine, tmp_path: Path) -> None:
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    configure(project, service(project, "db", ECHO, TCP), stage=[f'volumes = ["{meeting}:/meeting"]'])
    project.write(
        "test_it.py",
        ASK
        + """
import pathlib, time
ADDRESS = socket.gethostbyname("db")
def test_before():
    assert ask("there?") == "there?"
    pathlib.Path("/meeting/up").touch()
    for _ in range(6000):
        if pathlib.Path("/meeting/gone").exists():
            break
        time.sleep(0.01)
def test_meets_it():
    socket.create_connection((ADDRESS, 8000), 3)
def test_needs_none():
    pass
""",
    )
    process = host(project)
    deadline = time.monotonic() + 60
    while not (meeting / "up").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    (network,) = (
        each for each in list_ours(engine) if each.project == str(project.root) and each.type == "network"
    )
    for each in engine.list_containers({"pytest-envpar.project": str(project.root)}):
        subprocess.run(["docker", "network", "disconnect", "-f", network.name, each.id], check=True)
    engine.remove_network(network.name)
    (meeting / "gone").touch()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1, out
    assert "1 failed, 2 passed" in out
    assert not [mark for mark in OURS if mark in out], out
    assert ours(engine, project.root) == []


def test_names_that_mean_the_same_variable(project: Project) -> None:
    configure(project, service(project, "a-b", ECHO), service(project, "a_b", ECHO))
    project.suite("def test_a(): pass").refused("would both be ENVPAR_A_B_HOST")


def host(project: Project) -> subprocess.Popen[str]:
    """A run that is not waited for."""
    return subprocess.Popen(
        # Whoever started these tests in the background may have had the signals ignored, which is inherited.
        ["env", "--default-signal=INT", sys.executable, "-m", "pytest", "--env=qa"],
        cwd=project.root,
        env=project.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ours(engine: Engine, root: Path) -> list[str]:
    """What of the project is on the engine, but for caches."""
    return [each.type for each in list_ours(engine) if each.project == str(root) and each.state != "cache"]


def until_services_run(engine: Engine, root: Path, count: int) -> None:
    """Wait until this many services of the project run."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        listed = engine.list_containers({SERVICE: "", "pytest-envpar.project": str(root)})
        if sum(each.status == "running" for each in listed) >= count:
            return
        time.sleep(0.05)
    raise AssertionError("the services were not started")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_while_services_start_leaves_nothing(
    project: Project, engine: Engine, number: signal.Signals
) -> None:
    never = 'ready = { log = "never", timeout = 600 }'
    configure(project, service(project, "a", ECHO, never), service(project, "b", ECHO, TCP))
    project.write("test_it.py", "def test_a(): pass\n")
    process = host(project)
    until_services_run(engine, project.root, 2)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in out, out
    assert ours(engine, project.root) == []


def test_sweep_removes_networks_and_services_of_a_killed_run(project: Project, engine: Engine) -> None:
    configure(project, service(project, "db", ECHO, 'ready = { log = "never", timeout = 600 }'))
    project.write("test_it.py", "def test_a(): pass\n")
    process = host(project)
    until_services_run(engine, project.root, 1)
    assert {"network", "container"} <= set(ours(engine, project.root))
    process.kill()
    process.communicate(timeout=60)
    # Any other run on this machine may sweep it, too.
    states = {each.state for each in list_ours(engine) if each.project == str(project.root)}
    assert states <= {"dead", "cache"}
    sweep(engine, everything_dead=False)
    assert ours(engine, project.root) == []
