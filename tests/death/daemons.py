"""A Docker daemon of a test's own, with a folder and a network namespace of its own: everybody else's goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAMS = ("dockerd", "unshare", "umount")
_START_S = 60.0
_END_S = 30.0


class Daemon:
    """Owns the daemon, its containers and its folder until ``close``."""

    def __init__(self, *options: str) -> None:
        # A short path: a socket's has 108 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="envpar-d-"))
        self.socket = self.folder / "s"
        self.url = f"unix://{self.socket}"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def missing() -> str | None:
        """What it takes and is not there."""
        if os.getuid() != 0:
            return "a second Docker daemon needs root"
        absent = [name for name in PROGRAMS if shutil.which(name) is None]
        return f"a second Docker daemon needs {', '.join(absent)}" if absent else None

    def start(self) -> None:
        """Start it, also once more after ``kill``, and wait until it answers."""
        self._forget_containerd()
        # Two daemons in one network namespace take each other's bridge away.
        command = [
            *("unshare", "--net", "dockerd", "--host", self.url, "--bridge=none", "--iptables=false"),
            *("--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec")),
            *("--pidfile", str(self.folder / "pid"), *self._options),
        ]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._process = process
        deadline = time.monotonic() + _START_S
        while subprocess.run(
            ["docker", "--host", self.url, "version"], capture_output=True, check=False
        ).returncode:
            assert process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def _forget_containerd(self) -> None:
        """A killed daemon takes its containerd along, and the next one waits for it where nobody has reaped it."""
        file = self.folder / "exec" / "containerd" / "containerd.pid"
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{file.read_text(encoding='utf-8').strip()}/status").read_text(
                encoding="utf-8"
            )
            if "State:\tZ" in status:
                file.unlink()

    def signal(self, number: signal.Signals) -> None:
        """End it, and wait until it has ended."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(_END_S)

    def docker(self, *words: str) -> str:
        """What the docker command says of it."""
        done = subprocess.run(
            ["docker", "--host", self.url, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def take_image(self, name: str, host: str) -> None:
        """Have an image of another daemon."""
        save = subprocess.Popen(["docker", "--host", host, "save", name], stdout=subprocess.PIPE)
        load = subprocess.run(
            ["docker", "--host", self.url, "load", "--quiet"],
            stdin=save.stdout,
            capture_output=True,
            check=False,
        )
        assert save.stdout is not None
        save.stdout.close()
        assert (save.wait(), load.returncode) == (0, 0), load.stderr

    def log(self) -> str:
        """The end of what it said."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")[-4000:]

    def close(self) -> None:
        """End it with all that it started, and remove its folder."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        # What a killed daemon leaves running: each names its folder.
        for pid in _naming(str(self.folder)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for point in reversed(_mounts(self.folder)):
            subprocess.run(["umount", "--lazy", point], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def _naming(text: str) -> Sequence[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def _mounts(folder: Path) -> Sequence[str]:
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith(f"{folder}/")]
