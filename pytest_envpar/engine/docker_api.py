"""Docker Engine and Podman over the Docker Engine API.

https://docs.docker.com/reference/api/engine/version/v1.41/; Podman serves the same paths. Where the two
differ the difference is data, or a tolerant parser in :mod:`~pytest_envpar.engine.parse`.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import time
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any

from pytest_envpar.engine import parse, registry_auth
from pytest_envpar.engine import progress as progress_lines
from pytest_envpar.engine.api import (
    ContainerInfo,
    ContainerSpec,
    EngineInfo,
    ExecResult,
    ImageInfo,
    LayerFolders,
    Listed,
    PathChange,
    Progress,
)
from pytest_envpar.engine.connection import Endpoint, HttpClient, Response, TlsFiles
from pytest_envpar.engine.stream import SocketStream, demultiplexed
from pytest_envpar.engine.translate import AnswerError, ProtocolError, translated
from pytest_envpar.errors import ConnectionLostError, EngineError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

__all__ = ["MINIMUM_API", "DockerEngine"]

MINIMUM_API = (1, 41)
_NEWEST_API = (1, 51)
_REQUEST_TIMEOUT_S = 120.0
_REMOVAL_TIMEOUT_S = 30.0
_LISTING_TIMEOUT_S = 5.0
_POLL_S = 0.02
# Somebody else removes it at this moment, or (Podman) it ended by itself between being found and being killed.
_REMOVED_LATER = ("in progress", "could not be stopped")
_GONE_MEANWHILE = ("image not known", "no such container", "no such volume", "layer not known")
_SPOOL_BYTES = 8 << 20
_NOTHING: Mapping[str, str] = MappingProxyType({})


class DockerEngine:
    """An :class:`~pytest_envpar.engine.api.Engine` that is reached at a URL. Making one asks the engine once.

    Any number of threads may use it at the same time.

    Args:
        url: ``unix:///path`` or ``tcp://host:port``.
        tls: Certificates for an engine behind TLS.
        connect_timeout_s: Seconds for the first answer.
        docker_config: The user's Docker configuration folder with the registry credentials; by default
            ``DOCKER_CONFIG`` or ``~/.docker``.
        ours: Whether this process started the engine, so that it is on this machine for certain.
        on_close: Called once by :meth:`close`.

    Raises:
        ConnectionLostError: Nothing answers at the URL.
        EngineError: What answers is not a container engine, or too old.
        UsageError: The URL is not one of an engine.
    """

    def __init__(
        self,
        url: str,
        *,
        tls: TlsFiles | None = None,
        connect_timeout_s: float = 10.0,
        docker_config: Path | None = None,
        ours: bool = False,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        endpoint = Endpoint.parse(url, tls)
        self._http = HttpClient(endpoint)
        self._url = endpoint.url
        self._docker_config = docker_config
        self._on_close = on_close
        try:
            with translated("engine", self._url):
                self._info = self._ask(endpoint, connect_timeout_s, ours=ours)
            self._prefix = f"/v{_negotiated(self._info)}"
        except BaseException:
            self._http.close()
            raise

    @property
    def info(self) -> EngineInfo:
        """See :class:`~pytest_envpar.engine.api.Engine`, as for all verbs below."""
        return self._info

    # Images

    def inspect_image(self, reference: str) -> ImageInfo | None:
        try:
            return parse.image_info(self._json("GET", f"/images/{reference}/json", f"image {reference}"))
        except NotFoundError:
            return None

    def pull(self, reference: str, *, platform: str | None = None, progress: Progress | None = None) -> None:
        doing = f"image {reference}"
        query = {"fromImage": reference}
        # A name without a tag would pull every tag there is.
        name, digest = reference.rpartition("@")[::2]
        if name:
            query = {"fromImage": name, "tag": digest}
        else:
            name, tag = reference.rpartition(":")[::2]
            query = {"fromImage": name, "tag": tag} if name and "/" not in tag else query | {"tag": "latest"}
        if platform:
            query["platform"] = platform
        headers = {}
        with translated(f"{doing}: credentials", self._url):
            auth = registry_auth.header_for(reference, self._docker_config)
        if auth:
            headers["X-Registry-Auth"] = auth
        with translated(doing, self._url):
            response = self._request("POST", "/images/create", query=query, headers=headers, timeout_s=None)
            # An error in the middle leaves the rest unread: nobody else would close the connection.
            with contextlib.closing(response):
                progress_lines.follow_pull(response.chunks(), progress)

    def build(
        self,
        context: Iterable[bytes],
        *,
        dockerfile: str,
        tag: str | None,
        target: str | None = None,
        args: Mapping[str, str] = _NOTHING,
        labels: Mapping[str, str] = _NOTHING,
        platform: str | None = None,
        progress: Progress | None = None,
    ) -> str:
        query = {
            "dockerfile": dockerfile,
            "rm": "1",
            "forcerm": "1",
            "buildargs": json.dumps(dict(args)),
            "labels": json.dumps(dict(labels)),
        }
        if args and self.info.kind == "podman":
            # Buildah's layer cache (seen with Podman 4.3) does not look at arguments: another value of one gave
            # the image of the first.
            query["nocache"] = "1"
        named = {"t": tag, "target": target, "platform": platform}
        query |= {key: value for key, value in named.items() if value}
        headers = {"Content-Type": "application/x-tar"}
        with translated(f"build of {dockerfile}: credentials", self._url):
            auth = registry_auth.header_for_all(self._docker_config)
        if auth:
            headers["X-Registry-Config"] = auth
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
            try:
                found = self._build(dockerfile, query, headers, _copied(context, spool), progress)
            except EngineError as error:
                # The classic builder comes first: BuildKit gets registry credentials only through a session.
                if self._info.kind != "docker" or not any("requires BuildKit" in x for x in error.detail):
                    raise
                again = query | {"version": "2"}
                found = self._build(dockerfile, again, headers, _replayed(spool), progress)
        # What the build says of its id is cut short on some engines; the image itself says all of it.
        image = self.inspect_image(tag or found or "")
        if image is None:
            raise EngineError(f"build of {dockerfile}: the engine ended without an image")
        return image.id

    def tag_image(self, image: str, tag: str) -> None:
        name, _, version = tag.rpartition(":")
        self._done(
            "POST",
            f"/images/{image}/tag",
            f"image {image}",
            query={"repo": name or tag, "tag": version if name else "latest"},
        )

    def remove_image(self, image: str, *, force: bool = False) -> None:
        query = {"force": "1"} if force else None
        with contextlib.suppress(NotFoundError):
            self._done("DELETE", f"/images/{image}", f"image {image}", query=query)

    # Containers

    def create_container(self, spec: ContainerSpec) -> str:
        query = {}
        if spec.name:
            query["name"] = spec.name
        if spec.platform:
            query["platform"] = spec.platform
        body = parse.create_body(spec)
        answer = self._json(
            "POST", "/containers/create", f"container of image {spec.image}", query=query, body=body
        )
        return str(parse.table(answer).get("Id") or "")

    def attach(self, container: str) -> SocketStream:
        query = {"stream": "1", "stdin": "1", "stdout": "1", "stderr": "1"}
        return self._hijack(f"/containers/{container}/attach", f"container {_short(container)}", query=query)

    def start(self, container: str) -> None:
        self._done("POST", f"/containers/{container}/start", f"container {_short(container)}: start")

    def exec(
        self,
        container: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] = _NOTHING,
        user: str | None = None,
        workdir: PurePosixPath | None = None,
        input: bytes | None = None,  # noqa: A002 - the name that subprocess.run has
        timeout_s: float | None = None,
    ) -> ExecResult:
        """As in the protocol; :class:`TimeoutError` if the time is up (the command itself is not ended: the
        API has no verb for that)."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        made, stream = self._exec(
            container, command, env=env, user=user, workdir=workdir, stdin=input is not None
        )
        output: dict[int, list[bytes]] = {1: [], 2: []}
        try:
            if input is not None:
                # Beside the reading: a command that answers while it is fed would block both sides.
                threading.Thread(target=_feed, args=(stream, input), daemon=True).start()
            while True:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                piece = stream.read(left)
                if piece is None:
                    raise TimeoutError(f"{command[0]} did not end within {timeout_s} s")
                if piece[0] == 0:
                    break
                output[piece[0]].append(piece[1])
        finally:
            stream.close()
        code = self._exec_code(made, container, deadline)
        return ExecResult(code, b"".join(output[1]), b"".join(output[2]))

    def exec_stream(
        self,
        container: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] = _NOTHING,
        user: str | None = None,
        workdir: PurePosixPath | None = None,
    ) -> SocketStream:
        return self._exec(container, command, env=env, user=user, workdir=workdir, stdin=True)[1]

    def inspect_container(self, container: str) -> ContainerInfo:
        return parse.container_info(
            self._json("GET", f"/containers/{container}/json", f"container {_short(container)}")
        )

    def wait(self, container: str, *, timeout_s: float | None = None) -> int:
        doing = f"container {_short(container)}: wait"
        try:
            with translated(doing, self._url):
                answer = self._request("POST", f"/containers/{container}/wait", timeout_s=timeout_s).json()
        except ConnectionLostError as error:
            if timeout_s is not None and isinstance(error.__cause__, TimeoutError):
                raise TimeoutError(f"{doing}: not within {timeout_s} s") from None
            raise
        return int(parse.table(answer).get("StatusCode") or 0)

    def logs(self, container: str, *, tail: int | None = None) -> bytes:
        query = {"stdout": "1", "stderr": "1", "tail": "all" if tail is None else str(tail)}
        with translated(f"container {_short(container)}: logs", self._url):
            raw = self._request("GET", f"/containers/{container}/logs", query=query).read()
        return demultiplexed(raw)

    def kill(self, container: str, signal: str = "KILL") -> None:
        self._done(
            "POST",
            f"/containers/{container}/kill",
            f"container {_short(container)}",
            query={"signal": signal},
        )

    def remove_container(self, container: str) -> None:
        doing = f"container {_short(container)}: remove"
        deadline = time.monotonic() + _REMOVAL_TIMEOUT_S
        while True:
            try:
                self._done("DELETE", f"/containers/{container}", doing, query={"force": "1", "v": "1"})
            except NotFoundError:
                return
            except EngineError as error:
                if not any(text in error.message for text in _REMOVED_LATER) or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)
            else:
                return

    def changes(self, container: str) -> tuple[PathChange, ...]:
        return parse.path_changes(
            self._json("GET", f"/containers/{container}/changes", f"container {_short(container)}: changes")
        )

    def layer_folders(self, container: str) -> LayerFolders | None:
        if not self.info.local:
            return None
        doing = f"container {_short(container)}"
        return parse.layer_folders(self._json("GET", f"/containers/{container}/json", doing))

    def put_archive(self, container: str, path: PurePosixPath, tar: bytes | Iterable[bytes]) -> None:
        with translated(f"container {_short(container)}: write to {path}", self._url):
            self._request(
                "PUT",
                f"/containers/{container}/archive",
                query={"path": str(path)},
                headers={"Content-Type": "application/x-tar"},
                body=tar,
                timeout_s=None,
            ).read()

    def get_archive(self, container: str, path: PurePosixPath) -> Iterable[bytes]:
        doing = f"container {_short(container)}: read {path}"
        with translated(doing, self._url):
            response = self._request(
                "GET", f"/containers/{container}/archive", query={"path": str(path)}, timeout_s=None
            )
        return self._translated_chunks(response, doing)

    # Volumes, networks, listings

    def create_volume(
        self, name: str, *, labels: Mapping[str, str], options: Mapping[str, str] = _NOTHING
    ) -> PurePosixPath:
        body = {"Name": name, "Driver": "local", "Labels": dict(labels), "DriverOpts": dict(options)}
        answer = self._json("POST", "/volumes/create", f"volume {name}", body=body)
        return PurePosixPath(str(parse.table(answer).get("Mountpoint") or ""))

    def inspect_volume(self, name: str) -> Listed | None:
        try:
            return parse.listed_named(self._json("GET", f"/volumes/{name}", f"volume {name}"))
        except NotFoundError:
            return None

    def remove_volume(self, name: str) -> None:
        with contextlib.suppress(NotFoundError):
            self._done("DELETE", f"/volumes/{name}", f"volume {name}")

    def list_containers(self, labels: Mapping[str, str]) -> tuple[Listed, ...]:
        answer = self._listing("/containers/json", "containers", query={"all": "1", **_label_filter(labels)})
        return tuple(parse.listed_container(item) for item in parse.rows(answer))

    def list_images(self, labels: Mapping[str, str]) -> tuple[Listed, ...]:
        answer = self._listing("/images/json", "images", query=_label_filter(labels))
        return tuple(parse.listed_image(item) for item in parse.rows(answer))

    def list_volumes(self, labels: Mapping[str, str]) -> tuple[Listed, ...]:
        answer = parse.table(self._listing("/volumes", "volumes", query=_label_filter(labels)))
        return tuple(parse.listed_named(item) for item in parse.rows(answer.get("Volumes")))

    def list_networks(self, labels: Mapping[str, str]) -> tuple[Listed, ...]:
        answer = self._listing("/networks", "networks", query=_label_filter(labels))
        return tuple(parse.listed_named(item) for item in parse.rows(answer))

    def remove_network(self, network: str) -> None:
        with contextlib.suppress(NotFoundError):
            self._done("DELETE", f"/networks/{network}", f"network {network}")

    def cancel(self) -> None:
        self._http.cancel()

    def close(self) -> None:
        self._http.close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    # Requests

    def _build(
        self,
        dockerfile: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        context: Iterable[bytes],
        progress: Progress | None,
    ) -> str | None:
        with translated(f"build of {dockerfile}", self._url):
            response = self._request(
                "POST", "/build", query=query, headers=headers, body=context, timeout_s=None
            )
            with contextlib.closing(response):
                return progress_lines.follow_build(response.chunks(), dockerfile, progress)

    def _ask(self, endpoint: Endpoint, timeout_s: float, *, ours: bool) -> EngineInfo:
        """The one question at the start. Podman takes 0.25 s for its information, all of which we know
        ourselves of a service that we started: there a ping serves."""
        try:
            response = self._http.request("GET", "/_ping" if ours else "/info", timeout_s=timeout_s)
        except AnswerError as error:
            raise ProtocolError(f"status {error.status}") from None
        if ours:
            response.read()
            return parse.own_service_info(response.headers, self._url)
        return parse.engine_info(response.json(), response.headers, self._url, unix=endpoint.path is not None)

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
        timeout_s: float | None = _REQUEST_TIMEOUT_S,
        upgrade: bool = False,
    ) -> Response:
        return self._http.request(
            method,
            self._prefix + path,
            query=query,
            headers=headers,
            body=body,
            timeout_s=timeout_s,
            upgrade=upgrade,
        )

    def _json(
        self,
        method: str,
        path: str,
        doing: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Any:
        headers = None if body is None else {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with translated(doing, self._url):
            return self._request(method, path, query=query, headers=headers, body=data).json()

    def _listing(self, path: str, doing: str, *, query: Mapping[str, str]) -> Any:
        deadline = time.monotonic() + _LISTING_TIMEOUT_S
        while True:
            try:
                return self._json("GET", path, doing, query=query)
            except EngineError as error:
                # Podman fails a whole listing if one of its objects is removed meanwhile.
                if not any(text in error.message for text in _GONE_MEANWHILE) or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)

    def _done(self, method: str, path: str, doing: str, *, query: Mapping[str, str] | None = None) -> None:
        with translated(doing, self._url):
            self._request(method, path, query=query).read()

    def _hijack(
        self,
        path: str,
        doing: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> SocketStream:
        headers = None if body is None else {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with translated(doing, self._url):
            response = self._request("POST", path, query=query, headers=headers, body=data, upgrade=True)
            return SocketStream(response.take_over(), doing, self._url)

    def _exec(
        self,
        container: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        user: str | None,
        workdir: PurePosixPath | None,
        stdin: bool,
    ) -> tuple[str, SocketStream]:
        body: dict[str, Any] = {
            "AttachStdin": stdin,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": False,
            "Cmd": list(command),
            "Env": [f"{name}={value}" for name, value in env.items()],
        }
        if user is not None:
            body["User"] = user
        if workdir is not None:
            body["WorkingDir"] = str(workdir)
        doing = f"container {_short(container)}: {command[0]}"
        made = str(
            parse.table(self._json("POST", f"/containers/{container}/exec", doing, body=body)).get("Id") or ""
        )
        return made, self._hijack(f"/exec/{made}/start", doing, body={"Detach": False, "Tty": False})

    def _exec_code(self, made: str, container: str, deadline: float | None) -> int:
        """The exit code. The stream ends a moment before the engine has it; there is nothing to wait on."""
        while True:
            answer = parse.table(
                self._json("GET", f"/exec/{made}/json", f"container {_short(container)}: exec")
            )
            if not answer.get("Running"):
                return int(answer.get("ExitCode") or 0)
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError("the command closed its output and did not end in time")
            time.sleep(_POLL_S)

    def _translated_chunks(self, response: Response, doing: str) -> Iterator[bytes]:
        with translated(doing, self._url):
            yield from response.chunks()


def _copied(pieces: Iterable[bytes], spool: IO[bytes]) -> Iterator[bytes]:
    """``pieces``, which are kept in ``spool`` on their way."""
    for piece in pieces:
        spool.write(piece)
        yield piece


def _replayed(spool: IO[bytes]) -> Iterator[bytes]:
    """What was kept in ``spool``; all of it, since a builder reads its whole context before the first step."""
    spool.seek(0)
    while piece := spool.read(_SPOOL_BYTES):
        yield piece


def _negotiated(info: EngineInfo) -> str:
    """The API version to speak: the engine's own, at most the newest one we know of."""
    try:
        major, minor = (int(part) for part in info.api_version.split(".")[:2])
    except ValueError:
        raise EngineError(
            f"engine: what answers at {info.url} is not a container engine (it tells no API version)"
        ) from None
    if (major, minor) < MINIMUM_API:
        raise EngineError(
            f"engine: {info.url} speaks API {info.api_version}; {MINIMUM_API[0]}.{MINIMUM_API[1]} is needed",
            hint="Docker Engine 20.10 or newer, or Podman 4 or newer",
        )
    major, minor = min((major, minor), _NEWEST_API)
    return f"{major}.{minor}"


def _label_filter(labels: Mapping[str, str]) -> dict[str, str]:
    wanted = [f"{name}={value}" if value else name for name, value in labels.items()]
    return {"filters": json.dumps({"label": wanted})} if wanted else {}


def _feed(stream: SocketStream, data: bytes) -> None:
    # A command that does not read its input to the end is not an error.
    with contextlib.suppress(ConnectionLostError):
        stream.write(data)
        stream.close_write()


def _short(container: str) -> str:
    return container[:12]
