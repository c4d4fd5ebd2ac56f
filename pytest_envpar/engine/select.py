"""Which engine: what the user named, or the first one that answers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pytest_envpar.engine.connection import TlsFiles
from pytest_envpar.engine.docker_api import DockerEngine
from pytest_envpar.engine.podman_service import PodmanService
from pytest_envpar.engine.registry_auth import docker_folder
from pytest_envpar.engine.translate import redacted
from pytest_envpar.errors import EngineError, EnvparError, NoEngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from pytest_envpar.engine.api import Engine

Kind = Literal["docker", "podman"]

_DOCKER_SOCKET = "/var/run/docker.sock"
_DOCKERD = "/usr/sbin/dockerd"
"""Where it is on a machine whose users do not have its folder in their ``PATH``."""
_ROOT_PODMAN_SOCKET = "/run/podman/podman.sock"
_ANSWER_TIMEOUT_S = 5.0
_SSH_ANSWER_TIMEOUT_S = 20.0
"""Logging in takes its time, and may go by way of other machines."""
_CONTEXT = "context://"
_SERVICE = "podman system service"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A place where an engine may answer.

    Args:
        name: Where we know it from: ``DOCKER_HOST``, ``docker context qa``, ``docker socket``, ...
        url: Its URL; empty for the service that we start ourselves.
        tls: Certificates, if it is behind TLS.
        explicit: Whether the user named exactly this one.
        named: Whether it is from the user's environment and not from our list of usual places.
        kind: Whose place it is; ``None`` for one that the user named by its URL.
    """

    name: str
    url: str
    tls: TlsFiles | None = None
    explicit: bool = False
    named: bool = False
    kind: Kind | None = None

    @property
    def starts_service(self) -> bool:
        """Whether this is our own ``podman system service``."""
        return not self.url

    @property
    def title(self) -> str:
        """Name and URL, without credentials."""
        return (
            f"{self.name} ({redacted(self.url)})"
            if self.url and self.name != self.url
            else redacted(self.name)
        )


def _silent(_: str) -> None:
    pass


def select_engine(
    configured: Sequence[str],
    environ: Mapping[str, str],
    told: Callable[[str], object] = _silent,
) -> Engine:
    """The first engine that answers.

    Args:
        configured: ``auto``, ``docker``, ``podman``, ``unix://…``, ``tcp://…``, ``ssh://…`` or ``context://…``,
            in order.
        environ: The environment of the user: ``DOCKER_HOST``, ``DOCKER_CONTEXT``, ``DOCKER_CONFIG``,
            ``DOCKER_CERT_PATH``, ``DOCKER_TLS_VERIFY``, ``CONTAINER_HOST``, ``XDG_RUNTIME_DIR``, ``HOME``,
            ``PATH``.
        told: Takes a line where the user's environment names an engine that does not answer and another is used.

    Raises:
        NoEngineError: None answers; names each with its reason, and the command to get one.
        UsageError: A value of ``configured`` is not an engine.
    """
    failed: list[tuple[Candidate, EnvparError]] = []
    for candidate in candidates(configured, environ):
        try:
            engine = connect(candidate, environ)
        except (EngineError, UsageError) as error:
            if candidate.explicit and isinstance(error, UsageError):
                raise
            failed.append((candidate, error))
        else:
            for passed_over, why in failed:
                if passed_over.named:
                    told(f"{passed_over.title} is of no use ({why.message}); {candidate.title} is used")
            return engine
    raise _no_engine(failed, environ)


def candidates(configured: Sequence[str], environ: Mapping[str, str]) -> tuple[Candidate, ...]:
    """Where to look for an engine, in order, without asking any of them."""
    found: list[Candidate] = []
    for name in configured or ("auto",):
        if name in ("auto", "docker"):
            found += _docker_candidates(environ)
        if name in ("auto", "podman"):
            found += _podman_candidates(environ)
        if name.startswith(_CONTEXT):
            context = _of_context(name.removeprefix(_CONTEXT), environ)
            found.append(dataclasses.replace(context, explicit=True))
        elif name not in ("auto", "docker", "podman"):
            found.append(Candidate(name, name, _tls_of(name, environ), explicit=True))
    # One socket is often known under several names; asking it twice would only double the message.
    first: dict[str, Candidate] = {}
    for candidate in found:
        first.setdefault(candidate.url, candidate)
    return tuple(first.values())


def connect(candidate: Candidate, environ: Mapping[str, str]) -> DockerEngine:
    """The engine at one candidate; starts a service where the candidate is our own.

    Raises:
        EngineError: It does not answer, or is of no use.
        UsageError: Its URL is not one of an engine.
    """
    config = docker_folder(environ)
    if candidate.url.startswith(_CONTEXT):
        raise UsageError(
            f"{candidate.name}: there is none of this name, or it names no engine",
            hint="see `docker context ls`",
        )
    if not candidate.starts_service:
        by_ssh = candidate.url.startswith("ssh://")
        engine = DockerEngine(
            candidate.url,
            tls=candidate.tls,
            connect_timeout_s=_SSH_ANSWER_TIMEOUT_S if by_ssh else _ANSWER_TIMEOUT_S,
            docker_config=config,
        )
    else:
        service = PodmanService.start(environ)
        try:
            engine = DockerEngine(
                service.url,
                connect_timeout_s=_ANSWER_TIMEOUT_S,
                docker_config=config,
                ours=True,
                on_close=service.close,
            )
        except BaseException:
            service.close()
            raise
    if engine.info.os == "windows":
        engine.close()
        raise EngineError("the engine runs Windows containers", hint="switch it to Linux containers")
    return engine


def _docker_candidates(environ: Mapping[str, str]) -> list[Candidate]:
    found: list[Candidate] = []
    host = environ.get("DOCKER_HOST")
    if host:
        found.append(Candidate("DOCKER_HOST", host, _tls_of(host, environ), named=True, kind="docker"))
    context = _context(environ)
    # As for the docker command: DOCKER_HOST overrides the context.
    if context is not None and not host:
        found.append(context)
    found.append(Candidate("docker socket", f"unix://{_DOCKER_SOCKET}", kind="docker"))
    return found


def _podman_candidates(environ: Mapping[str, str]) -> list[Candidate]:
    found: list[Candidate] = []
    host = environ.get("CONTAINER_HOST")
    if host:
        found.append(Candidate("CONTAINER_HOST", host, named=True, kind="podman"))
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime:
        found.append(Candidate("podman socket", f"unix://{runtime}/podman/podman.sock", kind="podman"))
    found.append(Candidate("podman socket", f"unix://{_ROOT_PODMAN_SOCKET}", kind="podman"))
    found.append(Candidate(_SERVICE, "", kind="podman"))
    return found


def _tls_of(url: str, environ: Mapping[str, str]) -> TlsFiles | None:
    """TLS as the docker command reads it from the environment; for several engines, from a folder per host in it."""
    folder = environ.get("DOCKER_CERT_PATH")
    verify = bool(environ.get("DOCKER_TLS_VERIFY"))
    if not url.startswith("tcp://") or not (folder or verify):
        return None
    own = _own_folder(url, Path(folder)) if folder else None
    if own is not None:
        return _tls_in(own, verify=True)
    return _tls_in(Path(folder) if folder else docker_folder(environ), verify=verify)


def _own_folder(url: str, folder: Path) -> Path | None:
    """The certificates of one engine: ``HOST_PORT`` or ``HOST`` in the folder, as the URL names them."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or "/" in host or host.startswith("."):
        return None
    places = [folder / f"{host}_{port}", folder / host]
    return next((place for place in places if place.is_dir()), None)


def _tls_in(folder: Path, *, verify: bool) -> TlsFiles:
    ca, cert, key = (
        file if file.is_file() else None for file in (folder / f"{x}.pem" for x in ("ca", "cert", "key"))
    )
    return TlsFiles(ca=ca, cert=cert, key=key, verify=verify)


def docker_command_url(environ: Mapping[str, str]) -> str:
    """The URL of the engine that the ``docker`` command goes to by itself."""
    context = None if environ.get("DOCKER_HOST") else _context(environ)
    return environ.get("DOCKER_HOST") or (context.url if context is not None else f"unix://{_DOCKER_SOCKET}")


def _context(environ: Mapping[str, str]) -> Candidate | None:
    """The current docker context; ``None`` for the default one. Read from files: the command is slow."""
    folder = docker_folder(environ)
    name = environ.get("DOCKER_CONTEXT") or _read(folder / "config.json").get("currentContext")
    return None if not isinstance(name, str) or name in ("", "default") else _of_context(name, environ)


def _of_context(name: str, environ: Mapping[str, str]) -> Candidate:
    """The engine of a docker context, with its certificates."""
    folder = docker_folder(environ)
    key = hashlib.sha256(name.encode()).hexdigest()
    endpoint = _read(folder / "contexts" / "meta" / key / "meta.json").get("Endpoints")
    docker = endpoint.get("docker") if isinstance(endpoint, dict) else None
    host = docker.get("Host") if isinstance(docker, dict) else None
    title = f"docker context {name}"
    if not isinstance(host, str) or not host:
        # Kept as a candidate that fails: a context which is named and not there must not pass in silence.
        return Candidate(title, f"{_CONTEXT}{name}", named=True, kind="docker")
    certificates = folder / "contexts" / "tls" / key / "docker"
    tls = None
    if certificates.is_dir() and not host.startswith("unix://"):
        tls = _tls_in(
            certificates, verify=not docker.get("SkipTLSVerify") if isinstance(docker, dict) else True
        )
    return Candidate(title, host, tls, named=True, kind="docker")


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def reason(error: EnvparError) -> str:
    """Why a candidate was of no use, in one line."""
    cause = error.__cause__
    if isinstance(cause, FileNotFoundError):
        return "no such socket"
    if isinstance(cause, PermissionError):
        return "permission denied"
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused: nothing listens there"
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    return error.message.splitlines()[0].removeprefix("engine: ")


def way_out(failed: Sequence[tuple[Candidate, EnvparError]], environ: Mapping[str, str]) -> str:
    """What to do where none of the candidates is of use: for an engine of a kind that was looked for."""
    looked_for = [(candidate.kind, error) for candidate, error in failed if not candidate.explicit]
    if not looked_for:
        return 'see whether the engine runs at this address; engine = "auto" looks for one on this machine'
    if any(kind == "docker" and isinstance(error.__cause__, PermissionError) for kind, error in looked_for):
        return "sudo usermod -aG docker $USER, then log in again"
    return _install_hint({kind for kind, _ in looked_for}, environ)


def _install_hint(kinds: Collection[Kind | None], environ: Mapping[str, str]) -> str:
    """The command that gives this machine an engine of one of the kinds."""
    path = environ.get("PATH")
    docker, podman = "docker" in kinds, "podman" in kinds
    if docker and (shutil.which("dockerd", path=path) or Path(_DOCKERD).exists()):
        return (
            "Docker is installed but not running: sudo systemctl start docker (without systemd: sudo dockerd)"
        )
    if podman and shutil.which("podman", path=path):
        return "Podman is installed but does not serve: see what 'podman info' says"
    if shutil.which("apt-get", path=path):
        if docker and podman:
            return "sudo apt-get install docker.io (or, without a daemon: sudo apt-get install podman)"
        return f"sudo apt-get install {'docker.io' if docker else 'podman'}"
    if podman and shutil.which("dnf", path=path):
        return "sudo dnf install podman"
    places = ["Docker Engine (https://docs.docker.com/engine/install/)"] if docker else []
    places += ["Podman (https://podman.io)"] if podman else []
    return f"install {' or '.join(places)}"


def _no_engine(failed: Sequence[tuple[Candidate, EnvparError]], environ: Mapping[str, str]) -> NoEngineError:
    detail: list[str] = []
    for candidate, error in failed:
        detail.append(f"{candidate.title}: {reason(error)}")
        detail += [f"  {line}" for line in error.detail]
    return NoEngineError(
        f"no container engine answers; tried {len(failed)}:",
        hint=way_out(failed, environ),
        detail=tuple(detail),
    )
