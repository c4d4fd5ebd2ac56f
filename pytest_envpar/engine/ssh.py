"""An engine on another machine, over ssh: each connection is an ``ssh`` process with the engine's socket at its end.

As the docker command does it: ``docker system dial-stdio`` (or Podman's) passes bytes between its own standard streams
and the socket. So keys, agents, jump hosts and known hosts are those of the user's own ssh, and nothing listens.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import socket
import subprocess
import threading
from urllib.parse import unquote, urlsplit

from pytest_envpar.errors import EngineError, UsageError

_LAST_WORDS = 2000
_ENDING_S = 5.0
_OPTIONS = (
    # Nobody is there to type a password; and a machine that has gone away must be noticed.
    *("-o", "BatchMode=yes", "-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"),
)


@dataclasses.dataclass(frozen=True)
class Target:
    """Where an ``ssh://`` URL leads.

    Args:
        host: The host, as ``ssh`` knows it.
        user: The user there; ``None`` leaves it to ``ssh``.
        port: Its port; ``None`` leaves it to ``ssh``.
        path: The engine's socket there; ``None`` for the usual one.
    """

    host: str
    user: str | None = None
    port: int | None = None
    path: str | None = None

    @classmethod
    def parse(cls, url: str) -> Target:
        """What ``ssh://[USER@]HOST[:PORT][/PATH]`` names.

        Raises:
            UsageError: There is no host, or a password, which ``ssh`` takes from nobody.
        """
        shown = f"ssh://{url.partition('://')[2].partition('/')[0].rpartition('@')[2]}"
        try:
            parts = urlsplit(url)
        except ValueError:  # a bracket that is not closed
            raise UsageError(
                f"engine {shown}: not a host", hint="ssh://USER@HOST:PORT, or ssh://HOST"
            ) from None
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or host.startswith("-") or (parts.username or "").startswith("-"):
            raise UsageError(f"engine {shown}: not a host", hint="ssh://USER@HOST:PORT, or ssh://HOST")
        if parts.password is not None:
            raise UsageError(
                f"engine {shown}: a password in the URL is of no use to ssh",
                hint="use a key: ssh-copy-id, or an agent",
            )
        user = unquote(parts.username) if parts.username else None
        return cls(host, user, port, unquote(parts.path) if parts.path.strip("/") else None)

    @property
    def url(self) -> str:
        """The URL without the user."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{host}{f':{self.port}' if self.port else ''}{self.path or ''}"

    def command(self) -> list[str]:
        """The command line of a connection."""
        words = ["ssh", "-T", *_OPTIONS]
        if self.port is not None:
            words += ["-p", str(self.port)]
        if self.user is not None:
            words += ["-l", self.user]
        # By a shell of a known kind: the user's own may be any.
        return [*words, "--", self.host, f"exec sh -c {shlex.quote(_dial(self.path))}"]


def _dial(path: str | None) -> str:
    """The far side's part: whichever of the two commands is there."""
    docker = "" if path is None else f" --host={shlex.quote(f'unix://{path}')}"
    podman = "" if path is None else f" --url={shlex.quote(f'unix://{path}')}"
    return (
        f"if command -v docker >/dev/null 2>&1; then exec docker{docker} system dial-stdio; fi; "
        f"if command -v podman >/dev/null 2>&1; then exec podman{podman} system dial-stdio; fi; "
        "echo 'there is neither a docker nor a podman command on this machine' >&2; exit 127"
    )


class Tunnel(socket.socket):
    """This side's end of one connection, an ordinary socket. Closing it ends the process."""

    _process: subprocess.Popen[bytes]
    _words: bytes
    _reader: threading.Thread

    @classmethod
    def open(cls, target: Target) -> Tunnel:
        """Start ``ssh``; whether it gets through shows when the engine is asked something.

        Raises:
            EngineError: There is no ``ssh`` command.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            made = cls(fileno=ours.detach())
            try:
                made._process = subprocess.Popen(
                    target.command(),
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.PIPE,
                    # Ctrl-C is for the tests: what cleans up behind them needs the connection.
                    start_new_session=True,
                )
            except OSError as error:
                made.close()
                raise EngineError(
                    f"engine {target.url}: ssh cannot be started ({error.strerror})",
                    hint="install the OpenSSH client (openssh-client)",
                ) from error
        made._words = b""
        made._reader = threading.Thread(target=made._listen, name="envpar-ssh", daemon=True)
        made._reader.start()
        return made

    def _listen(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        with stderr:
            while piece := os.read(stderr.fileno(), 4096):
                self._words = (self._words + piece)[-_LAST_WORDS:]
        self._process.wait()

    @property
    def returncode(self) -> int | None:
        """How ``ssh`` ended; ``None`` while it runs."""
        return self._process.poll()

    def last_words(self) -> str:
        """What ``ssh`` said before it ended, in one line; empty if it still runs or said nothing."""
        self._reader.join(_ENDING_S)
        if self._reader.is_alive():
            return ""
        lines = self._words.decode("utf-8", "replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
