"""The set-up script on machines that are not this one: stand-ins for programs, an engine on a unix socket."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import socketserver
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import setup_engine
import virtual_engine
import wheelhouse
from provision import SetupError, bases, engines, virtual
from provision import client as client_module
from provision.client import Client, EngineRefusedError
from provision.machine import Machine, cache_folder

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping, Sequence


class FakeEngine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Speaks just enough of the engine API, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Handler)
        self.url = f"unix://{path}"
        self.images: set[str] = set()
        self.imported: dict[str, bytes] = {}
        self.pullable: set[str] = set()
        self.ping_status = 200
        self.import_error: str | None = None

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, _ = super().get_request()
        return connection, ("client", 0)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FakeEngine

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name is inherited)
        """Quiet."""

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # Who wants the status alone may be gone.
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/_ping":
            self._answer(self.server.ping_status, b"OK")
        elif self.path == "/version":
            self._answer(200, json.dumps({"Version": "1.2", "Components": [{"Name": "Engine"}]}).encode())
        else:
            name = urllib.parse.unquote(self.path.removeprefix("/images/").removesuffix("/json"))
            found = name in self.server.images
            self._answer(200 if found else 404, b"{}" if found else b'{"message": "no such image"}')

    def do_POST(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = {name: values[0] for name, values in urllib.parse.parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if url.path.endswith("/tag"):
            self.server.images.add(f"{query['repo']}:{query['tag']}")
            self._answer(201, b"")
        elif "fromImage" in query:
            name = f"{query['fromImage']}:{query['tag']}"
            if name in self.server.pullable:
                self.server.images.add(name)
                self._answer(200, b'{"status": "Pulling"}\r\n{"status": "Done"}\r\n')
            else:
                self._answer(200, b'{"status": "Pulling"}\r\n{"error": "toomanyrequests"}\r\n')
        elif self.server.import_error is not None:
            self._answer(200, json.dumps({"error": self.server.import_error}).encode())
        else:
            self.server.images.add(query["repo"])
            self.server.imported[query["repo"]] = body
            self._answer(200, b'{"status": "sha256:0"}\r\n')


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    # A unix socket's path is short; pytest's tmp_path may not be.
    with tempfile.TemporaryDirectory() as folder, FakeEngine(Path(folder) / "e.sock") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Makes programs of this machine; it has no others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(Machine, "path", str(folder))

    def make(name: str, script: str) -> Path:
        file = folder / name
        file.write_text(f"#!{sys.executable}\nimport sys, pathlib\n{script}\n")
        file.chmod(0o755)
        return file

    return make


@pytest.fixture
def machine(
    tmp_path: Path,
    said: list[str],
    programs: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Machine]:
    """A machine with nothing on it and no engine of its own."""
    monkeypatch.setattr(engines, "DOCKER_SOCKET", tmp_path / "no-docker.sock")
    monkeypatch.setattr(engines, "PODMAN_SOCKET", tmp_path / "no-podman.sock")

    def make(*, root: bool = False, environ: Mapping[str, str] | None = None) -> Machine:
        variables = {"DOCKER_CONFIG": str(tmp_path / "no-config"), **(environ or {})}
        return Machine(environ=variables, say=said.append, root=root, cache=tmp_path / "cache")

    return make


def no_registry() -> bool:
    return False


def registry() -> bool:
    return True


# --- finding an engine -------------------------------------------------------------------------------------


def test_docker_host_is_used_and_named(machine: Any, engine: FakeEngine) -> None:
    found = engines.find(machine(environ={"DOCKER_HOST": engine.url}))
    assert found is not None
    assert found.client.url == engine.url
    assert found.variables == {"DOCKER_HOST": engine.url}


def test_a_docker_host_that_is_down_is_an_error_and_nothing_else_is_tried(
    machine: Any, tmp_path: Path
) -> None:
    url = f"unix://{tmp_path}/gone.sock"
    with pytest.raises(SetupError, match="does not answer") as caught:
        engines.find(machine(environ={"DOCKER_HOST": url}))
    assert "unset DOCKER_HOST" in caught.value.fix


def test_a_docker_host_that_we_cannot_speak_to_says_so(machine: Any) -> None:
    with pytest.raises(SetupError, match="unix:// and tcp://"):
        engines.find(machine(environ={"DOCKER_HOST": "ssh://somewhere"}))


def test_the_usual_socket_is_found_without_any_variable(
    machine: Any, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "PODMAN_SOCKET", Path(engine.url.removeprefix("unix://")))
    found = engines.find(machine())
    assert found is not None
    assert found.variables == {}


def test_the_sockets_of_a_user_come_after_dockers_own(machine: Any, tmp_path: Path) -> None:
    listed = engines.sockets(machine(environ={"XDG_RUNTIME_DIR": "/run/user/7"}))
    assert listed == [
        tmp_path / "no-docker.sock",
        Path("/run/user/7/docker.sock"),
        tmp_path / "no-podman.sock",
        Path("/run/user/7/podman/podman.sock"),
    ]


def test_the_current_docker_context_is_read(machine: Any, engine: FakeEngine, tmp_path: Path) -> None:
    meta = tmp_path / "config" / "contexts" / "meta" / hashlib.sha256(b"mine").hexdigest()
    meta.mkdir(parents=True)
    (tmp_path / "config" / "config.json").write_text('{"currentContext": "mine"}')
    (meta / "meta.json").write_text(json.dumps({"Endpoints": {"docker": {"Host": engine.url}}}))
    found = engines.find(machine(environ={"DOCKER_CONFIG": str(tmp_path / "config")}))
    assert found is not None
    assert found.client.url == engine.url


def test_an_engine_that_is_starting_up_does_not_count_as_one(machine: Any, engine: FakeEngine) -> None:
    engine.ping_status = 503
    with pytest.raises(SetupError, match="status 503"):
        engines.find(machine(environ={"DOCKER_HOST": engine.url}))


# --- installing and starting one ---------------------------------------------------------------------------


def test_without_apt_the_error_says_what_to_install(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert setup_engine.main([], machine(root=True)) == 1
    shown = capsys.readouterr().err
    assert "no apt-get" in shown
    assert "fix: install Docker Engine or Podman" in shown


def test_without_root_the_error_names_the_command(
    machine: Any, programs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    programs("apt-get", "raise SystemExit('must not run')")
    assert setup_engine.main([], machine()) == 1
    assert "sudo apt-get update && sudo apt-get install -y docker.io iptables" in capsys.readouterr().err


def test_a_failing_apt_shows_the_tail_of_its_log(
    machine: Any, programs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    programs("apt-get", "print('E: mirror is down'); sys.exit(100)")
    assert setup_engine.main([], machine(root=True)) == 1
    shown = capsys.readouterr().err
    assert "ended with 100" in shown
    assert "| E: mirror is down" in shown


def test_docker_is_installed_and_started_and_waited_for(
    machine: Any, programs: Any, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # apt-get "installs" a dockerd that listens on the socket it is given until it is asked for a version.
    daemon = (
        "import http.server, socketserver\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        body = b'{}' if self.path == '/version' else b'OK'\n"
        "        self.send_response(200); self.send_header('Content-Length', str(len(body)))\n"
        "        self.end_headers(); self.wfile.write(body)\n"
        "        self.server.asked = self.path == '/version'\n"
        "    def address_string(self): return ''\n"
        "with socketserver.UnixStreamServer(sys.argv[2].removeprefix('unix://'), H) as server:\n"
        "    server.asked = False\n"
        "    while not server.asked: server.handle_request()\n"
    )
    script = (
        f"if 'install' in sys.argv:\n"
        f"    file = pathlib.Path(sys.argv[0]).with_name('dockerd')\n"
        f"    file.write_text({f'#!{sys.executable}' + chr(10) + 'import sys' + chr(10) + daemon!r})\n"
        f"    file.chmod(0o755)\n"
    )
    programs("apt-get", script)
    started: list[subprocess.Popen[bytes]] = []
    start = Machine.start

    def remember(self: Machine, command: Sequence[str], *, log: Path) -> subprocess.Popen[bytes]:
        started.append(start(self, command, log=log))
        return started[-1]

    monkeypatch.setattr(Machine, "start", remember)
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(engines, "DOCKER_SOCKET", Path(folder) / "docker.sock")
        monkeypatch.setattr(engines, "DOCKER_PID", Path(folder) / "docker.pid")
        monkeypatch.setattr(engines, "SYSTEMD", Path(folder) / "no-systemd")
        assert setup_engine.main(["--only", "engine"], machine(root=True)) == 0
    assert [process.wait(timeout=30) for process in started] == [0]
    assert said[0].startswith("installing docker.io iptables")
    assert said[1].startswith("starting Docker Engine")
    assert said[2].startswith("engine: Docker")


def test_a_daemon_that_dies_is_an_error_with_its_log(
    machine: Any, programs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(engines, "SYSTEMD", tmp_path / "no-systemd")
    monkeypatch.setattr(engines, "DOCKER_PID", tmp_path / "docker.pid")
    programs("iptables", "")
    programs("dockerd", "print('no overlay here', flush=True); sys.exit(3)")
    with pytest.raises(SetupError, match="ended with 3") as caught:
        engines.ensure_docker(machine(root=True))
    assert caught.value.detail == ("no overlay here",)


def test_starting_an_installed_docker_needs_root(machine: Any, programs: Any) -> None:
    programs("dockerd", "")
    with pytest.raises(SetupError, match="starting it needs root"):
        engines.ensure_docker(machine())


def test_an_engine_that_never_answers_is_given_up(tmp_path: Path) -> None:
    client = Client(f"unix://{tmp_path}/none.sock", {})
    with pytest.raises(SetupError, match="did not answer within 0 s"):
        engines.wait_for(client, None, tmp_path / "none.log", "Engine", timeout_s=0.0)


def test_podman_that_is_missing_without_apt_is_an_error(
    machine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert setup_engine.main(["--podman"], machine(root=True)) == 1
    assert "Podman was asked for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("facts", "lines"),
    [
        ({"fixed_limits": False, "unified_cgroups": True, "has_runc": True}, None),
        ({"fixed_limits": False, "unified_cgroups": False, "has_runc": False}, None),
        (
            {"fixed_limits": False, "unified_cgroups": False, "has_runc": True},
            ["[engine]", 'runtime = "runc"'],
        ),
        (
            {"fixed_limits": True, "unified_cgroups": True, "has_runc": True},
            ["[containers]", 'default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]'],
        ),
    ],
)
def test_podman_gets_settings_only_where_its_own_fail(
    facts: dict[str, bool], lines: list[str] | None
) -> None:
    text = engines.containers_conf(**facts)
    assert (text.splitlines() if text is not None else None) == lines


# --- base images -------------------------------------------------------------------------------------------


def test_images_that_are_there_are_left_alone(machine: Any, engine: FakeEngine, said: list[str]) -> None:
    engine.images = {base.name for base in bases.BASES.values()}
    bases.ensure(machine(), Client(engine.url), list(bases.BASES), registry_answers=lambda: 1 // 0 == 1)
    assert said == [f"image {base.name}: already on the engine" for base in bases.BASES.values()]


def test_a_registry_that_answers_is_pulled_from(machine: Any, engine: FakeEngine) -> None:
    engine.pullable = {"python:3.11-slim-bookworm"}
    bases.ensure(machine(), Client(engine.url), ["bookworm"], registry_answers=registry)
    assert "envpar-base:py3.11" in engine.images
    assert engine.imported == {}


MMDEBSTRAP = "pathlib.Path(sys.argv[-2]).write_text('tar of ' + sys.argv[-3]); print(sys.argv)"


@pytest.mark.parametrize("answers", [registry, no_registry])
def test_what_cannot_be_pulled_is_made_and_kept(
    machine: Any, engine: FakeEngine, programs: Any, tmp_path: Path, answers: Callable[[], bool]
) -> None:
    programs("mmdebstrap", MMDEBSTRAP)
    here = machine(environ={"ENVPAR_BASE_CACHE": str(tmp_path / "bases")})
    bases.ensure(here, Client(engine.url), ["trixie", "bullseye"], registry_answers=answers)
    assert engine.imported == {
        "envpar-base:py3.13": b"tar of trixie",
        "envpar-base:py3.9": b"tar of bullseye",
    }
    kept = sorted(file.name.partition("-")[0] for file in (tmp_path / "bases").iterdir())
    assert kept == ["bullseye", "trixie"]


def test_a_kept_tar_is_imported_without_pull_or_bootstrap(machine: Any, engine: FakeEngine) -> None:
    here = machine()
    tar = bases.tar_path(here, bases.BASES["bookworm"])
    tar.parent.mkdir(parents=True)
    tar.write_bytes(b"kept")
    bases.ensure(here, Client(engine.url), ["bookworm"], registry_answers=lambda: 1 // 0 == 1)
    assert engine.imported == {"envpar-base:py3.11": b"kept"}


def test_a_suite_that_left_the_mirror_comes_from_the_archive(
    machine: Any, engine: FakeEngine, programs: Any
) -> None:
    programs("mmdebstrap", f"if 'archive' not in sys.argv[-1]: sys.exit(25)\n{MMDEBSTRAP}")
    bases.ensure(machine(), Client(engine.url), ["bullseye"], registry_answers=no_registry)
    assert engine.imported == {"envpar-base:py3.9": b"tar of bullseye"}


def test_a_failed_bootstrap_leaves_no_tar(machine: Any, engine: FakeEngine, programs: Any) -> None:
    programs(
        "mmdebstrap", "pathlib.Path(sys.argv[-2]).write_text('half'); print('E: no mirror'); sys.exit(25)"
    )
    here = machine()
    with pytest.raises(SetupError, match="ended with 25") as caught:
        bases.ensure(here, Client(engine.url), ["bookworm"], registry_answers=no_registry)
    assert caught.value.detail == ("E: no mirror",)
    assert list((here.cache / "bases").iterdir()) == []


def test_mmdebstrap_cannot_be_installed_without_root(machine: Any, engine: FakeEngine, programs: Any) -> None:
    programs("apt-get", "raise SystemExit('must not run')")
    with pytest.raises(SetupError, match="needs root") as caught:
        bases.ensure(machine(), Client(engine.url), ["bookworm"], registry_answers=no_registry)
    assert "mmdebstrap" in caught.value.fix


def test_an_import_that_the_engine_refuses_is_an_error(machine: Any, engine: FakeEngine) -> None:
    here = machine()
    tar = bases.tar_path(here, bases.BASES["bookworm"])
    tar.parent.mkdir(parents=True)
    tar.write_bytes(b"half a tar")
    engine.import_error = "unexpected EOF"
    with pytest.raises(SetupError, match="unexpected EOF"):
        bases.ensure(here, Client(engine.url), ["bookworm"])


def test_the_name_of_a_kept_tar_depends_on_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    before = bases.BASES["bookworm"].key
    monkeypatch.setattr(bases, "PACKAGES", (*bases.PACKAGES, "tzdata-legacy"))
    assert bases.BASES["bookworm"].key != before


def test_any_answer_of_the_registry_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, timeout: float) -> None:
        raise urllib.error.HTTPError(url, 401, "Unauthorized", Message(), None)

    def fail(url: str, timeout: float) -> None:
        raise urllib.error.URLError("no such host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert bases.public_registry_answers()
    monkeypatch.setattr(urllib.request, "urlopen", fail)
    assert not bases.public_registry_answers()


# --- the command -------------------------------------------------------------------------------------------


def test_a_second_run_changes_nothing(
    machine: Any, engine: FakeEngine, said: list[str], programs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "public_registry_answers", no_registry)
    programs("mmdebstrap", MMDEBSTRAP)
    here = machine(environ={"DOCKER_HOST": engine.url})
    assert setup_engine.main(["--suites", "bookworm"], here) == 0
    engine.imported.clear()
    said.clear()
    assert setup_engine.main(["--suites", "bookworm"], here) == 0
    assert engine.imported == {}
    assert said[:3] == [
        f"engine: Docker 1.2 at {engine.url}",
        "image envpar-base:py3.11: already on the engine",
        f"use it with: export DOCKER_HOST={engine.url}",
    ]
    assert said[3].startswith("ready after")


def test_the_image_with_servers_is_made_when_it_is_asked_for(
    machine: Any, engine: FakeEngine, said: list[str], programs: Any
) -> None:
    programs("mmdebstrap", MMDEBSTRAP)
    engine.images = {"envpar-base:py3.11"}
    here = machine(environ={"DOCKER_HOST": engine.url})
    assert setup_engine.main(["--suites", "bookworm", "--servers"], here) == 0
    assert engine.imported == {"envpar-services:bookworm": b"tar of bookworm"}
    assert "image envpar-services:bookworm: there" in said


def test_only_the_engine_looks_at_no_image(machine: Any, engine: FakeEngine, said: list[str]) -> None:
    here = machine(environ={"DOCKER_HOST": engine.url})
    assert setup_engine.main(["--only", "engine"], here) == 0
    assert not any("image" in line for line in said)


def test_only_images_installs_no_engine(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert setup_engine.main(["--only", "images"], machine(root=True)) == 1
    assert "no container engine answers" in capsys.readouterr().err


def test_an_unknown_suite_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        setup_engine.main(["--suites", "bookworm,sid"])
    assert caught.value.code == 2
    assert "unknown suite sid; known: bookworm, trixie, bullseye" in capsys.readouterr().err


def test_the_script_runs_on_its_own() -> None:
    command = [sys.executable, "-S", "-E", str(FIXTURES / "setup_engine.py"), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True).stdout
    assert "--podman" in shown


def test_the_cache_lies_outside_the_checkout(tmp_path: Path) -> None:
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "pytest-envpar"
    assert cache_folder({}) == Path.home() / ".cache" / "pytest-envpar"


def test_refusals_of_the_engine_carry_its_words(engine: FakeEngine) -> None:
    with pytest.raises(EngineRefusedError, match="toomanyrequests"):
        Client(engine.url).pull("python:3.11-slim-bookworm")


def test_an_answer_that_is_no_json_is_shown_as_text() -> None:
    assert client_module._message(b"502 Bad Gateway\n") == "502 Bad Gateway"


# --- wheels ------------------------------------------------------------------------------------------------


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, programs: Any) -> Callable[[str], None]:
    """Puts a stand-in in the place of the Python that runs pip."""

    def make(script: str) -> None:
        monkeypatch.setattr(sys, "executable", os.fspath(programs("fake-python", script)))

    return make


def test_wheels_are_downloaded_once(pip: Callable[[str], None], tmp_path: Path) -> None:
    pip(
        "dest = next(a for a in sys.argv if a.startswith('--dest=')).removeprefix('--dest=')\n"
        "(pathlib.Path(dest) / 'a-1-py3-none-any.whl').touch()"
    )
    folder = wheelhouse.wheelhouse(cache=tmp_path)
    assert [file.name for file in folder.iterdir()] == ["a-1-py3-none-any.whl"]
    pip("sys.exit(1)")
    assert wheelhouse.wheelhouse(cache=tmp_path) == folder
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]


def test_a_failed_download_leaves_no_folder(pip: Callable[[str], None], tmp_path: Path) -> None:
    pip("print('no index', file=sys.stderr); sys.exit(1)")
    with pytest.raises(SetupError, match="could not download") as caught:
        wheelhouse.wheelhouse(cache=tmp_path)
    assert caught.value.detail == ("no index",)
    assert list((tmp_path / "wheels").iterdir()) == []


def test_every_wheel_is_pinned() -> None:
    lines = [line for line in wheelhouse.WHEELS.read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert all("==" in line for line in lines)


@pytest.mark.parametrize(
    ("pid", "kept"),
    [("999999999", False), (str(os.getpid()), False), ("no number", True)],
    ids=["of nobody", "of another program", "no number"],
)
def test_the_pid_file_of_a_dead_daemon_goes(tmp_path: Path, pid: str, kept: bool) -> None:
    said: list[str] = []
    machine = cast("Any", SimpleNamespace(say=said.append))
    file = tmp_path / "docker.pid"
    file.write_text(pid)
    engines._forget_dead_daemon(machine, file)
    assert file.exists() is kept
    assert bool(said) is not kept


# --- the virtual machine -----------------------------------------------------------------------------------

_FOR_A_MACHINE = ("mmdebstrap", "mke2fs", "ip", "unshare")


def test_a_virtual_machine_needs_root_once(machine: Any, programs: Any) -> None:
    for name in _FOR_A_MACHINE:
        programs(name, "")
    with pytest.raises(SetupError, match="by root only"):
        virtual.ensure(machine())


def test_the_disk_of_a_virtual_machine_is_kept(machine: Any, programs: Any) -> None:
    for name in _FOR_A_MACHINE:
        programs(name, "raise SystemExit('must not run')")
    here = machine()
    folder = here.cache / "virtual" / virtual.key()
    folder.mkdir(parents=True)
    assert virtual.ensure(here) == folder


def test_a_failed_disk_leaves_nothing(machine: Any, programs: Any) -> None:
    for name in _FOR_A_MACHINE:
        programs(name, "sys.exit('no such suite')")
    here = machine(root=True)
    with pytest.raises(SetupError, match="ended with 1"):
        virtual.ensure(here)
    assert not list((here.cache / "virtual").iterdir())


def test_an_unknown_engine_of_the_virtual_machine_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        virtual_engine.main(["--engines", "rootfull", "true"])
    assert "known: rootful, rootless, podman-rootful, podman-rootless" in capsys.readouterr().err


def test_a_virtual_machine_without_a_command_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(virtual, "running", lambda *_: pytest.fail("it was made"))
    with pytest.raises(SystemExit):
        virtual_engine.main(["--engines", "rootful"])
    assert "name a command" in capsys.readouterr().err


def test_a_failed_link_tells_what_failed_first(
    machine: Any, programs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(virtual, "_DEVICE", "envpar-none")  # there may be a virtual machine on this one
    programs("ip", "sys.exit(sys.argv[1:3] != ['tuntap', 'add'])")
    with (
        pytest.raises(SetupError, match="ip address add"),
        virtual._link(machine(root=True), tmp_path / "log"),
    ):
        pytest.fail("there is no link")
