"""The one place where foreign errors become ours.

Everything that an engine, a socket or the ``docker`` package can throw passes through :func:`translate`;
messages never carry credentials, whoever wrote them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from typing import TYPE_CHECKING

from pytest_envpar.errors import ConflictError, ConnectionLostError, EngineError, EnvparError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

_DETAIL_LINES = 20
# Podman answers 500 to what Docker answers 409.
_CONFLICTS = ("container state improper", "is already in use", "network already exists")
# And this to what Docker answers 404, while a container is being removed.
_MISSING = ("no such container",)
_HINTS = {
    "setting rlimit": "Podman may not raise limits here: name a file by CONTAINERS_CONF that has, under "
    '[containers], default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]',
    "unknown or invalid runtime name": "name a runtime that the engine has ('docker info' lists them)",
    "toomanyrequests": "the registry limits anonymous pulls: docker login",
    # Docker's defaults are enough for some thirty networks.
    "non-overlapping IPv4 address pool": "the engine has no addresses left for one more network: remove networks that "
    "nobody uses (docker network prune), or give it more (default-address-pools in its daemon.json)",
}
_CREDENTIALS_IN_URL = re.compile(r"(?<=://)[^/\s@]+@")


class AnswerError(Exception):
    """The engine answered a request with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class ProtocolError(Exception):
    """What came back is not an answer of a container engine."""


class GoneError(Exception):
    """The connection ended in the middle of an answer."""


def redacted(text: str) -> str:
    """``text`` without the credentials of any URL in it."""
    return _CREDENTIALS_IN_URL.sub("", text)


@dataclasses.dataclass(frozen=True)
class Where:
    """What was being done, and to which engine: the context of an error message."""

    doing: str
    engine: str


def translate(cause: BaseException, where: Where) -> EnvparError:
    """The error of ours that stands for ``cause``.

    Args:
        cause: What was raised by a socket, by the engine's answer or by the ``docker`` package.
        where: What was being done; starts the message.
    """
    doing, engine = redacted(where.doing), redacted(where.engine)
    if isinstance(cause, EnvparError):
        return cause
    if isinstance(cause, AnswerError):
        lines = tuple(redacted(cause.message).strip().splitlines()[-_DETAIL_LINES:])
        message = f"{doing}: {lines[0] if lines else f'the engine answered {cause.status}'}"
        kinds = {404: NotFoundError, 409: ConflictError}
        kind = kinds.get(cause.status, EngineError)
        if kind is EngineError and any(text in cause.message for text in _CONFLICTS):
            kind = ConflictError
        elif kind is EngineError and any(text in cause.message for text in _MISSING):
            kind = NotFoundError
        return kind(message, detail=lines[1:], hint=_hint(cause.message))
    if isinstance(cause, ProtocolError):
        return EngineError(f"{doing}: what answers is not a container engine ({redacted(str(cause))})")
    if isinstance(cause, TimeoutError):
        return ConnectionLostError(
            f"{doing}: the engine at {engine} did not answer in time",
            hint="see whether the engine hangs: 'docker version' (or 'podman version') must answer at once",
        )
    if isinstance(cause, FileNotFoundError):
        return ConnectionLostError(f"{doing}: there is no engine at {engine} (no such file)")
    if isinstance(cause, PermissionError):
        return ConnectionLostError(
            f"{doing}: permission denied at {engine}",
            hint="sudo usermod -aG docker $USER, then log in again",
        )
    if isinstance(cause, ConnectionRefusedError):
        return ConnectionLostError(f"{doing}: the engine at {engine} refuses connections: it is not running")
    if isinstance(cause, (OSError, GoneError)):
        text = redacted(getattr(cause, "strerror", None) or str(cause)) or "the connection ended"
        return ConnectionLostError(
            f"{doing}: the connection to the engine at {engine} was lost ({text})",
            hint="see whether the engine still runs",
        )
    # The docker package reads the user's credentials; what it throws there is not one class.
    return EngineError(f"{doing}: {redacted(str(cause)) or type(cause).__name__}")


def _hint(message: str) -> str | None:
    return next((hint for text, hint in _HINTS.items() if text in message), None)


@contextlib.contextmanager
def translated(doing: str, engine: str) -> Iterator[None]:
    """Turn what is raised inside into our errors; ``doing`` starts their message."""
    try:
        yield
    except (AnswerError, ProtocolError, GoneError, OSError) as cause:
        raise translate(cause, Where(doing, engine)) from cause
