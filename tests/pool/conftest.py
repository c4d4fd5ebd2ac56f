"""Two real daemons: the one of this machine, reached over ssh, and one in a network of its own, over TLS."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.containers.sweep import list_ours
from pytest_envpar.engine.connection import TlsFiles
from pytest_envpar.engine.docker_api import DockerEngine
from pytest_envpar.errors import EngineError, EnvparError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_envpar.engine.api import Engine

SOURCE = Path(__file__).parents[2]
SOCKET = "/var/run/docker.sock"
IMAGES = {"dev": "envpar-base:py3.13", "qa": "envpar-base:py3.11"}
OURS = ("Traceback (most recent call last)", "INTERNALERROR", "pytest_envpar/session", "pytest_envpar/worker")
START_S = 60.0
TIMEOUT_S = 180.0
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def missing(what: str) -> None:
    """Skip on a user's machine, fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} (a failure because CI is set)", pytrace=False)
    pytest.skip(what)


def program(name: str) -> str:
    """The path of a program that the tests need."""
    found = shutil.which(name, path=PATH)
    if found is None or os.geteuid() != 0:
        missing(f"no {name}, or not root; as root: python fixtures/setup_engine.py --pool")
    assert found is not None
    return found


def wait_until(true: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until something that ``process`` does has happened."""
    deadline = time.monotonic() + START_S
    while not true():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"it did not start\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.02)


def answers(address: tuple[str, int]) -> bool:
    """Whether something listens."""
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port of the loopback that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class SecondDocker:
    """A daemon with its own network, data and certificates, which a test may kill and start again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._name = f"envpar{os.getpid()}"
        third = os.getpid() % 250
        self.near, self.address = f"10.213.{third}.1", f"10.213.{third}.2"
        self.url = f"tcp://{self.address}:2376"
        self.certs = folder / "certs" / self.address
        self._log = folder / "dockerd.log"
        self._process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """The network and the certificates."""
        ip = program("ip")
        veth = f"{self._name}v"
        for command in (
            ["netns", "add", self._name],
            ["link", "add", veth, "type", "veth", "peer", "name", "far0", "netns", self._name],
            ["addr", "add", f"{self.near}/30", "dev", veth],
            ["link", "set", veth, "up"],
            ["-n", self._name, "addr", "add", f"{self.address}/30", "dev", "far0"],
            ["-n", self._name, "link", "set", "far0", "up"],
            ["-n", self._name, "link", "set", "lo", "up"],
        ):
            done = subprocess.run([ip, *command], capture_output=True, text=True, check=False)
            if done.returncode:
                missing(f"no network namespace of its own: {done.stderr}")
        self.certs.mkdir(parents=True)
        openssl = program("openssl")

        def run(*words: str) -> None:
            subprocess.run([openssl, *words], cwd=self.certs, check=True, capture_output=True)

        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        run(
            "req",
            "-x509",
            *curve,
            "-keyout",
            "ca-key.pem",
            "-out",
            "ca.pem",
            "-subj",
            "/CN=pool",
            "-days",
            "2",
        )
        for name, use, also in (
            ("server", "serverAuth", f"IP:{self.address}"),
            ("", "clientAuth", "DNS:client"),
        ):
            stem = f"{name}-" if name else ""
            run(
                "req",
                *curve,
                "-keyout",
                f"{stem}key.pem",
                "-out",
                "request.pem",
                "-subj",
                f"/CN={name or 'me'}",
            )
            (self.certs / "more").write_text(f"subjectAltName={also}\nextendedKeyUsage={use}\n")
            signed = (
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca-key.pem",
                "-CAcreateserial",
                "-extfile",
                "more",
                "-days",
                "2",
            )
            run("x509", "-req", "-in", "request.pem", "-out", f"{stem}cert.pem", *signed)

    def start(self) -> None:
        """Start the daemon if it does not run, and wait for it."""
        if self._process is not None and self._process.poll() is None:
            return
        (self.folder / "docker.pid").unlink(missing_ok=True)
        command = [
            program("nsenter"),
            f"--net=/run/netns/{self._name}",
            program("dockerd"),
            f"--data-root={self.folder}/data",
            f"--exec-root={self.folder}/exec",
            f"--pidfile={self.folder}/docker.pid",
            f"--host=unix://{self.folder}/docker.sock",
            f"--host=tcp://{self.address}:2376",
            "--tlsverify",
            f"--tlscacert={self.certs}/ca.pem",
            f"--tlscert={self.certs}/server-cert.pem",
            f"--tlskey={self.certs}/server-key.pem",
            "--bridge=none",
            "--iptables=false",
        ]
        environ = {**os.environ, "PATH": PATH}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, start_new_session=True
            )
        wait_until(lambda: answers((self.address, 2376)), self._process, self._log)

    def kill(self) -> None:
        """As if the machine were switched off: the daemon, and with it the containers' monitors and the containers."""
        process, self._process = self._process, None
        if process is None:
            return
        own = str(self.folder).encode()
        # The session of the daemon, and what containerd has started apart from it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError, ValueError):
                if own in place.read_bytes() and b"shim" in place.read_bytes():
                    os.kill(int(place.parent.name), signal.SIGKILL)

    def connect(self) -> Engine:
        """A connection of the tests' own."""
        files = TlsFiles(self.certs / "ca.pem", self.certs / "cert.pem", self.certs / "key.pem")
        return DockerEngine(self.url, tls=files)

    def close(self) -> None:
        """Leave nothing behind."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=30)
            self.kill()
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        for place in sorted((line.split()[1] for line in mounts if str(self.folder) in line), reverse=True):
            subprocess.run(["umount", "-l", place], check=False, capture_output=True)
        subprocess.run([program("ip"), "netns", "delete", self._name], check=False, capture_output=True)
        subprocess.run([program("ip"), "link", "delete", f"{self._name}v"], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondDocker]:
    """The second daemon, over TLS."""
    program("dockerd")
    made = SecondDocker(tmp_path_factory.mktemp("second"))
    try:
        made.make()
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def ssh_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL of this machine's own daemon over ssh, and a folder for ``PATH`` whose ``ssh`` knows the key."""
    sshd, ssh, keygen = program("sshd"), program("ssh"), program("ssh-keygen")
    folder = tmp_path_factory.mktemp("ssh")
    for name in ("host", "user"):
        subprocess.run(
            [keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)],
            check=True,
            capture_output=True,
        )
    port = free_port()
    (folder / "keys").write_bytes((folder / "user.pub").read_bytes())
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PermitRootLogin prohibit-password\nMaxStartups 100\nUsePAM no\n"
        f"SetEnv XDG_CACHE_HOME={folder}/cache PYTHONPATH={SOURCE}\n"
    )
    (folder / "config").write_text(
        f"Host *\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known\n"
    )
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {ssh} -F {folder}/config "$@"\n')
    wrapper.chmod(0o755)
    Path("/run/sshd").mkdir(exist_ok=True)  # it refuses to start without
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sshd, "-D", "-e", "-f", str(folder / "sshd_config")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: answers(("127.0.0.1", port)), process, log)
        yield f"ssh://root@127.0.0.1:{port}{SOCKET}", wrapper.parent
    finally:
        process.terminate()
        process.wait()


class Ran:
    """What the user sees of one run."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err
        self.text = f"exit {code}\n{out}\n--- stderr\n{err}"
        last = out.strip().splitlines()[-1:]
        self.line = re.sub(r" in [\d.:()s ]+$", "", last[0].strip("= ")) if last else ""

    def ended(self, code: int, line: str | None = None) -> Ran:
        """Assert exit status and closing line, and return self."""
        assert self.code == code, self.text[-6000:]
        assert line is None or self.line == line, self.text[-6000:]
        return self


class Project:
    """A project whose stages run on a pool."""

    def __init__(
        self, root: Path, near: Engine, second: SecondDocker, urls: list[str], environ: Mapping[str, str]
    ) -> None:
        self.root = root
        self.near = near
        self.second = second
        self.urls = urls
        self.environ = dict(environ)
        root.mkdir(parents=True)

    def configure(self, *urls: str, stages: tuple[str, ...] = ("qa",), more: str = "") -> None:
        """Write the configuration with these engines."""
        text = f"engine = {json.dumps(list(urls) or 'auto')}\n{more}\n"
        for name in stages:
            text += f'[stages.{name}]\nimage = "{IMAGES[name]}"\nnetwork = "none"\n'
        self.write("envpar.toml", text)

    def write(self, name: str, text: str) -> None:
        """Write a file of the project; the text is dedented."""
        (self.root / name).write_text(textwrap.dedent(text), encoding="utf-8")

    def start(self, *args: str, module: str = "pytest") -> subprocess.Popen[str]:
        """Start pytest, or another module, with these arguments."""
        installed = any(point.name == "envpar" for point in importlib.metadata.entry_points(group="pytest11"))
        plugin = [] if installed or module != "pytest" else ["-p", "pytest_envpar.plugin"]
        return subprocess.Popen(
            [sys.executable, "-m", module, *plugin, *args],
            cwd=self.root,
            env={**self.environ, **({} if installed else {"PYTHONPATH": str(SOURCE)})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen[str], seen: str = "") -> Ran:
        """Wait for a run; no error of ours may be a traceback, and nothing be left on an engine that is there."""
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            pytest.fail(f"the run did not end\n{seen}{out}\n{err}")
        result = Ran(process.returncode, seen + out, err)
        for mark in OURS:
            assert mark not in result.out + result.err, result.text[-8000:]
        assert self.left(self.near) == [], result.text[-8000:]
        with contextlib.suppress(EnvparError), contextlib.closing(self.second.connect()) as far:
            assert self.left(far) == [], result.text[-8000:]
        return result

    def left(self, engine: Engine) -> list[object]:
        """What is on an engine of this project beside caches."""
        mine = [each for each in list_ours(engine) if each.project == str(self.root)]
        return [each for each in mine if each.state != "cache" and each.kind != "image"]

    def run(self, *args: str, module: str = "pytest") -> Ran:
        """Run pytest, or another module, with these arguments to its end."""
        return self.end(self.start(*args, module=module))


@pytest.fixture(scope="session")
def environ(
    tmp_path_factory: pytest.TempPathFactory, second: SecondDocker, ssh_url: tuple[str, Path]
) -> Mapping[str, str]:
    """The hosts' environment: one cache for all of them, the certificates and the key."""
    unwanted = ("PYTEST", "PYTHON", "TOX_", "COV", "DOCKER_", "CONTAINER_", "PY_COLORS", "FORCE_COLOR")
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(unwanted) and name != "CI"
    }
    environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    environ["NO_COLOR"] = "1"
    environ["PATH"] = f"{ssh_url[1]}:{PATH}"
    environ["DOCKER_CERT_PATH"] = str(second.certs.parent)
    return environ


@pytest.fixture(scope="session")
def near() -> Iterator[Engine]:
    """The daemon of this machine, with the test images."""
    try:
        made = DockerEngine(f"unix://{SOCKET}")
    except EngineError as error:
        missing(f"no docker: {error}")
        raise
    with contextlib.closing(made):
        for image in IMAGES.values():
            if made.inspect_image(image) is None:
                missing(f"no image {image}; run fixtures/setup_engine.py")
        yield made


@pytest.fixture
def project(
    tmp_path: Path, near: Engine, second: SecondDocker, ssh_url: tuple[str, Path], environ: Mapping[str, str]
) -> Project:
    """A project with one stage on both daemons."""
    second.start()
    made = Project(tmp_path / "project", near, second, [ssh_url[0], second.url], environ)
    made.configure(*made.urls)
    return made
