"""A second Docker daemon in a network of its own, over TLS, and what it takes to start such programs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rig.needs import missing

from pytest_envpar.engine.connection import TlsFiles
from pytest_envpar.engine.docker_api import DockerEngine
from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_envpar.engine.api import Engine

PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
START_S = 60.0


def program(name: str) -> str:
    """The path of a program that the tests need."""
    found = shutil.which(name, path=PATH)
    if found is None or os.geteuid() != 0:
        missing(f"no {name}, or not root; as root: python fixtures/setup_engine.py --pool")
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


class SecondDocker:
    """A daemon with its own network, data and certificates, which a test may kill and start again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._name = f"envpar{os.getpid()}"
        third = os.getpid() % 250
        third += third >= 77  # the virtual machine's: fixtures/provision/virtual.py
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
        wait_until(self._serves, self._process, self._log)

    def _serves(self) -> bool:
        """Whether it answers: one that only listens, on a busy machine, is taken for lost by a run."""
        try:
            self.connect().close()
        except EngineError:
            return False
        return True

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
