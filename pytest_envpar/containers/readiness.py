"""When a service is ready: what is asked, from where, and what was heard last.

A port and a page are asked for from inside the network, by the interpreter of the stage's own container: the service's
image may have neither a shell nor Python, the engine may be on another machine, and what counts is that the suite can
reach the service by its name. A command, and with it the image's own health check, runs in the service's container. A
line of the log is waited for where the log is heard.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import TYPE_CHECKING

from pytest_envpar.errors import EngineError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_envpar.config.model import Ready, Service
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.images import ImageInfo

_HTTP_PORT = 80
_MAX_ERRORS = 1 << 14
_DETAIL_LINES = 10

# Python 3.8 and newer, standard library. It tells each change as a line of JSON: a name, and what the last try met, or
# null for "ready". Nothing can be waited for here: that a port opens is nobody's event.
PROBE = r"""
import http.client, json, socket, sys, time

def met(check):
    try:
        if check["path"] is None:
            socket.create_connection((check["host"], check["port"]), 2).close()
            return None
        link = http.client.HTTPConnection(check["host"], check["port"], timeout=5)
        try:
            link.request("GET", check["path"])
            status = link.getresponse().status
        finally:
            link.close()
        good = status < 400 if check["status"] is None else status == check["status"]
        return None if good else "status %d" % status
    except socket.gaierror:
        return "the name is not known"
    except (socket.timeout, TimeoutError):
        return "timed out"
    except OSError as error:
        return (error.strerror or str(error) or type(error).__name__).lower()
    except http.client.HTTPException as error:
        return "no HTTP answer (%s)" % type(error).__name__

checks, last = json.loads(sys.argv[1]), {}
while checks:
    for check in list(checks):
        now = met(check)
        if now is None:
            checks.remove(check)
        if now is None or last.get(check["name"]) != now:
            last[check["name"]] = now
            print(json.dumps([check["name"], now]), flush=True)
    if checks:
        time.sleep(0.05)
"""


@dataclasses.dataclass(frozen=True)
class Vantage:
    """A container on the network of the services, from which they are asked.

    Args:
        python: Its interpreter (container path).
    """

    engine: Engine
    container: str
    python: str


@dataclasses.dataclass(frozen=True)
class NetworkCheck:
    """A port that has to accept a connection, or a page that has to be answered."""

    name: str
    port: int
    path: str | None = None
    status: int | None = None


def port_of(ready: Ready | None, image: ImageInfo) -> int | None:
    """The port at which a service is found: the one it is asked at, else the only one that its image exposes."""
    if ready is not None and ready.tcp is not None:
        return ready.tcp
    if ready is not None and ready.http is not None:
        return ready.port or _HTTP_PORT
    exposed = {port.partition("/")[0] for port in image.ports if port.partition("/")[2] in ("", "tcp")}
    return int(exposed.pop()) if len(exposed) == 1 else None


def network_check(name: str, ready: Ready) -> NetworkCheck | None:
    """What is asked over the network, if anything is."""
    if ready.tcp is not None:
        return NetworkCheck(name, ready.tcp)
    if ready.http is not None:
        return NetworkCheck(name, ready.port or _HTTP_PORT, ready.http, ready.status)
    return None


def command_of(stage: str, service: Service, image: ImageInfo) -> tuple[str, ...]:
    """The command that has to end with 0 in the service's container; empty if none is asked for.

    The image's health check is run here and not by the engine: the engine waits a whole interval before the first
    time (30 seconds by default), and Podman needs systemd for it.

    Raises:
        ServiceError: The image has no health check.
    """
    ready = service.ready
    if ready is None or not ready.healthcheck:
        return () if ready is None else ready.command
    kind, *words = image.health_check or ("",)
    if kind == "CMD-SHELL":
        return ("/bin/sh", "-c", *words)
    if kind == "CMD" and words:
        return tuple(words)
    raise ServiceError(
        f"stage {stage!r}: service {service.name!r}: healthcheck = true, and the image {service.image} has no "
        "health check",
        hint="use tcp, log, http or command",
    )


def described(ready: Ready) -> str:
    """What is waited for, in a few words."""
    if ready.tcp is not None:
        return f"a connection to port {ready.tcp}"
    if ready.http is not None:
        answer = "any status below 400" if ready.status is None else f"status {ready.status}"
        return f"{answer} from http port {ready.port or _HTTP_PORT}, path {ready.http}"
    if ready.log is not None:
        return f"a line of its log that matches {ready.log!r}"
    if ready.command:
        return f"the command {shlex.join(ready.command)!r} to end with 0"
    return "the health check of its image"


def watch(
    vantage: Vantage, checks: Sequence[NetworkCheck], told: Callable[[str, str | None], None], stop_s: float
) -> None:
    """Ask until all are ready or the time is up.

    Args:
        told: Called with a service's name and what the last try met; ``None`` means that it is ready.
        stop_s: After how many seconds without news to give up.

    Raises:
        EngineError: The engine failed, or the container went away.
    """
    wanted = [{"host": check.name, **dataclasses.asdict(check)} for check in checks]
    waiting = {check.name for check in checks}
    # Isolated: a module of the project named json or socket is not what is meant.
    command = [vantage.python, "-I", "-S", "-c", PROBE, json.dumps(wanted)]
    stream = vantage.engine.exec_stream(vantage.container, command)
    rest = errors = b""
    try:
        while waiting:
            piece = stream.read(stop_s)
            if piece is None:
                return
            if piece[0] == 0:
                said = errors.decode("utf-8", "replace").strip().splitlines()
                raise EngineError(
                    "the stage's container stopped asking its services whether they are ready",
                    detail=tuple(said[-_DETAIL_LINES:]),
                )
            if piece[0] == 2:
                errors = (errors + piece[1])[-_MAX_ERRORS:]
                continue
            *lines, rest = (rest + piece[1]).split(b"\n")
            for line in lines:
                heard = _heard(line)
                if heard is None:
                    # Where the container is on its way out, an engine writes its own words into the output.
                    errors = (errors + line + b"\n")[-_MAX_ERRORS:]
                    continue
                name, met = heard
                if met is None:
                    waiting.discard(name)
                told(name, met)
    finally:
        stream.close()


def _heard(line: bytes) -> tuple[str, str | None] | None:
    """A line of the probe's; ``None`` for any other."""
    try:
        name, met = json.loads(line)
    except (ValueError, TypeError):
        return None
    return str(name), None if met is None else str(met)
