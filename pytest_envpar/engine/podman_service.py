"""A ``podman system service`` of our own: an engine for machines on which no daemon runs.

It listens on a socket in a private folder for as long as we hold a pipe to it, so it ends with us however we
end, and takes its folder along.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_envpar.engine.connection import Endpoint
from pytest_envpar.engine.translate import redacted
from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 5.0
_POLL_S = 0.01
_LOG_LINES = 8
# A unix socket's path may have 107 bytes; a temporary folder set by the user can be deep.
_MAX_SOCKET_PATH = 100

# A death signal (prctl) would be cleared when a rootless Podman enters its user namespace, and would follow
# the starting thread instead of the process. The end of a pipe is certain: the kernel closes it whatever
# happens to us.
_WATCH = """
folder=$1; shift
exec 3<&0 </dev/null
"$@" 3<&- &
service=$!
{ cat <&3 >/dev/null; kill "$service"; } 2>/dev/null &
watcher=$!
wait "$service"
code=$?
kill "$watcher" 2>/dev/null
rm -rf -- "$folder"
exit $code
"""


class PodmanService:
    """A running service; made by :meth:`start`, ended by :meth:`close`.

    Args:
        url: Where it listens.
    """

    def __init__(self, url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.url = url
        self._process = process
        self._folder = folder

    @property
    def pid(self) -> int:
        """The process (and process group) that watches the service."""
        return self._process.pid

    @classmethod
    def start(cls, environ: Mapping[str, str], *, timeout_s: float = _START_TIMEOUT_S) -> PodmanService:
        """Start a service and wait until it accepts connections.

        Args:
            environ: The environment of the service: ``PATH`` finds podman, ``CONTAINERS_CONF`` configures it.
            timeout_s: Seconds until it has to accept connections.

        Raises:
            EngineError: There is no podman, or it does not come to listen; ``detail`` has its output.
        """
        program = shutil.which("podman", path=environ.get("PATH"))
        if program is None:
            raise EngineError("podman is not installed")
        folder = Path(tempfile.mkdtemp(prefix="envpar-podman-"))
        if len(str(folder)) > _MAX_SOCKET_PATH - len("/podman.sock"):
            folder.rmdir()
            folder = Path(tempfile.mkdtemp(prefix="envpar-podman-", dir="/tmp"))
        path = folder / "podman.sock"
        url = f"unix://{path}"
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _WATCH, "sh", str(folder), program, "system", "service", "--time=0", url],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=dict(environ),
                cwd="/",
                # Ctrl-C goes to the terminal's process group; the service has to outlive it.
                start_new_session=True,
            )
            service = cls(url, process, folder)
            try:
                service._await_socket(timeout_s)
            except EngineError as error:
                service.close()
                log.seek(0)
                lines = log.read().decode("utf-8", "replace").strip().splitlines()
                shown = tuple(redacted(line) for line in lines[-_LOG_LINES:])
                raise EngineError(error.message, detail=shown) from None
            except BaseException:
                service.close()
                raise
        return service

    def _await_socket(self, timeout_s: float) -> None:
        endpoint = Endpoint.parse(self.url)
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                endpoint.connect(_POLL_S).close()
            except OSError:
                # Not listening yet; there is nothing to wait on but the socket itself.
                if self._process.poll() is not None:
                    raise EngineError(
                        f"podman system service ended with {self._process.returncode} instead of listening"
                    ) from None
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"podman system service does not listen after {timeout_s:g} s"
                    ) from None
                time.sleep(_POLL_S)
            else:
                return

    def close(self) -> None:
        """End the service and remove its folder. Safe to call twice."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            _kill_group(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    # Podman waits for requests that are still open; whoever closes has none that matter.
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
