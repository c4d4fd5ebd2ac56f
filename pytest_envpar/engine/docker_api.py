"""Docker Engine and Podman over the Docker Engine API.

https://docs.docker.com/reference/api/engine/version/v1.41/; Podman serves the same paths. Where the two
differ the difference is data, or a tolerant parser in :mod:`~pytest_envpar.engine.parse`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_envpar.engine.calls import POLL_S, label_filter
from pytest_envpar.engine.docker_images import DockerImages
from pytest_envpar.engine.docker_life import DockerLife
from pytest_envpar.engine.docker_networks import DockerNetworks
from pytest_envpar.engine.parse.create import create_body
from pytest_envpar.engine.parse.engines import engine_info, own_service_info
from pytest_envpar.engine.parse.listings import listed_container, listed_named
from pytest_envpar.engine.parse.shapes import rows, table
from pytest_envpar.engine.paths import at
from pytest_envpar.engine.stream import SocketStream, demultiplexed, last_lines
from pytest_envpar.engine.translate import AnswerError, ProtocolError, translated
from pytest_envpar.engine.values.processes import ExecResult
from pytest_envpar.errors import ConnectionLostError, EngineError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pytest_envpar.engine.connection import Response, TlsFiles
    from pytest_envpar.engine.retry import Backoff
    from pytest_envpar.engine.values.containers import ContainerInfo
    from pytest_envpar.engine.values.create import ContainerSpec
    from pytest_envpar.engine.values.engine import EngineInfo, Listed
    from pytest_envpar.engine.values.files import LayerFolders, PathChange

__all__ = ["MINIMUM_API", "DockerEngine"]

MINIMUM_API = (1, 41)
_NEWEST_API = (1, 51)
_REMOVAL_TIMEOUT_S = 30.0
# Somebody else removes it at this moment, or (Podman) it ended by itself between being found and being killed.
_REMOVED_LATER = ("in progress", "could not be stopped")
_NOTHING: Mapping[str, str] = MappingProxyType({})


class DockerEngine(DockerImages, DockerLife, DockerNetworks):
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
        backoff: How often a pull is tried that a registry or the network breaks off.

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
        backoff: Backoff | None = None,
    ) -> None:
        super().__init__(url, tls, docker_config, backoff)
        self._on_close = on_close
        try:
            with translated("engine", self._url):
                self._info = self._ask(connect_timeout_s, ours=ours)
            self._prefix = f"/v{_negotiated(self._info)}"
        except BaseException:
            self._http.close()
            raise

    # What the verbs mean: see :class:`~pytest_envpar.engine.api.Engine`.

    # Containers

    def create_container(self, spec: ContainerSpec) -> str:
        query = {}
        if spec.name:
            query["name"] = spec.name
        if spec.platform:
            query["platform"] = spec.platform
        body = create_body(spec)
        answer = self._json(
            "POST", "/containers/create", f"container of image {spec.image}", query=query, body=body
        )
        return str(table(answer).get("Id") or "")

    def attach(self, container: str) -> SocketStream:
        query = {"stream": "1", "stdin": "1", "stdout": "1", "stderr": "1"}
        return self._hijack(
            at("containers", container, "attach"), f"container {_short(container)}", query=query
        )

    def start(self, container: str) -> None:
        self._done("POST", at("containers", container, "start"), f"container {_short(container)}: start")

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
        return self.open_exec(container, command, env=env, user=user, workdir=workdir)[1]

    def open_exec(
        self,
        container: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] = _NOTHING,
        user: str | None = None,
        workdir: PurePosixPath | None = None,
        stdin: bool = True,
    ) -> tuple[str, SocketStream]:
        return self._exec(container, command, env=env, user=user, workdir=workdir, stdin=stdin)

    def inspect_container(self, container: str) -> ContainerInfo:
        from pytest_envpar.engine.parse.containers import container_info

        return container_info(
            self._json("GET", at("containers", container, "json"), f"container {_short(container)}")
        )

    def wait(self, container: str, *, timeout_s: float | None = None) -> int:
        return self._wait(container, timeout_s, {})

    def wait_removed(self, container: str, *, timeout_s: float | None = None) -> None:
        with contextlib.suppress(NotFoundError):
            self._wait(container, timeout_s, {"condition": "removed"})

    def _wait(self, container: str, timeout_s: float | None, query: Mapping[str, str]) -> int:
        doing = f"container {_short(container)}: wait"
        path = at("containers", container, "wait")
        try:
            with translated(doing, self._url):
                answer = self._request("POST", path, query=query, timeout_s=timeout_s).json()
        except ConnectionLostError as error:
            if timeout_s is not None and isinstance(error.__cause__, TimeoutError):
                raise TimeoutError(f"{doing}: not within {timeout_s} s") from None
            raise
        return int(table(answer).get("StatusCode") or 0)

    def logs(self, container: str, *, tail: int | None = None, since: float | None = None) -> bytes:
        # Podman's own tail loses what was written without the end of a line, or joins it to the line before.
        cut = tail if self.info.kind == "podman" else None
        query = {
            "stdout": "1",
            "stderr": "1",
            "tail": "all" if tail is None or cut is not None else str(tail),
        }
        if since is not None:
            query["since"] = f"{since:.9f}"
        with translated(f"container {_short(container)}: logs", self._url):
            response = self._request("GET", at("containers", container, "logs"), query=query)
            return demultiplexed(response.read()) if cut is None else last_lines(response.chunks(), cut)

    def kill(self, container: str, signal: str = "KILL") -> None:
        self._done(
            "POST",
            at("containers", container, "kill"),
            f"container {_short(container)}",
            query={"signal": signal},
        )

    def remove_container(self, container: str) -> None:
        doing = f"container {_short(container)}: remove"
        deadline = time.monotonic() + _REMOVAL_TIMEOUT_S
        while True:
            try:
                self._done("DELETE", at("containers", container), doing, query={"force": "1", "v": "1"})
            except NotFoundError:
                return
            except EngineError as error:
                if not any(text in error.message for text in _REMOVED_LATER) or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)
            else:
                return

    def changes(self, container: str) -> tuple[PathChange, ...]:
        from pytest_envpar.engine.parse.files import path_changes

        return path_changes(
            self._json(
                "GET", at("containers", container, "changes"), f"container {_short(container)}: changes"
            )
        )

    def layer_folders(self, container: str) -> LayerFolders | None:
        from pytest_envpar.engine.parse.files import layer_folders

        if not self.info.local:
            return None
        doing = f"container {_short(container)}"
        return layer_folders(self._json("GET", at("containers", container, "json"), doing))

    def image_folders(self, image: str) -> tuple[Path, ...] | None:
        from pytest_envpar.engine.parse.files import image_folders

        if not self.info.local:
            return None
        return image_folders(self._json("GET", at("images", image, "json"), f"image {image}"))

    def export(self, container: str) -> Iterable[bytes]:
        doing = f"container {_short(container)}: export"
        with translated(doing, self._url):
            response = self._request("GET", at("containers", container, "export"), timeout_s=None)
        return self._translated_chunks(response, doing)

    def put_archive(self, container: str, path: PurePosixPath, tar: bytes | Iterable[bytes]) -> None:
        with translated(f"container {_short(container)}: write to {path}", self._url):
            self._request(
                "PUT",
                at("containers", container, "archive"),
                query={"path": str(path)},
                headers={"Content-Type": "application/x-tar"},
                body=tar,
                timeout_s=None,
            ).read()

    def get_archive(self, container: str, path: PurePosixPath) -> Iterable[bytes]:
        doing = f"container {_short(container)}: read {path}"
        with translated(doing, self._url):
            response = self._request(
                "GET", at("containers", container, "archive"), query={"path": str(path)}, timeout_s=None
            )
        return self._translated_chunks(response, doing)

    # Volumes, listings

    def create_volume(
        self, name: str, *, labels: Mapping[str, str], options: Mapping[str, str] = _NOTHING
    ) -> PurePosixPath:
        body = {"Name": name, "Driver": "local", "Labels": dict(labels), "DriverOpts": dict(options)}
        try:
            answer = self._json("POST", "/volumes/create", f"volume {name}", body=body)
        except EngineError as error:
            if "volume already exists" not in error.message:
                raise
            # Podman: somebody else made it at the same moment. Asked again it gives what is there.
            answer = self._json("POST", "/volumes/create", f"volume {name}", body=body)
        return PurePosixPath(str(table(answer).get("Mountpoint") or ""))

    def inspect_volume(self, name: str) -> Listed | None:
        try:
            return listed_named(self._json("GET", at("volumes", name), f"volume {name}"))
        except NotFoundError:
            return None

    def remove_volume(self, name: str) -> None:
        with contextlib.suppress(NotFoundError):
            self._done("DELETE", at("volumes", name), f"volume {name}")

    def list_containers(self, labels: Mapping[str, str]) -> tuple[Listed, ...]:
        answer = self._listing("/containers/json", "containers", query={"all": "1", **label_filter(labels)})
        return tuple(listed_container(item) for item in rows(answer))

    def list_volumes(self, labels: Mapping[str, str]) -> tuple[Listed, ...]:
        answer = table(self._listing("/volumes", "volumes", query=label_filter(labels)))
        return tuple(listed_named(item) for item in rows(answer.get("Volumes")))

    def cancel(self) -> None:
        self._cancelled.set()
        self._http.cancel()

    def close(self) -> None:
        self._http.close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    # Requests

    def _ask(self, timeout_s: float, *, ours: bool) -> EngineInfo:
        """The one question at the start. Podman takes 0.25 s for its information, all of which we know
        ourselves of a service that we started: there a ping serves."""
        try:
            response = self._http.request("GET", "/_ping" if ours else "/info", timeout_s=timeout_s)
        except AnswerError as error:
            raise ProtocolError(f"status {error.status}") from None
        if ours:
            response.read()
            return own_service_info(response.headers, self._url)
        return engine_info(response.json(), response.headers, self._url, unix=self._endpoint.path is not None)

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
            table(self._json("POST", at("containers", container, "exec"), doing, body=body)).get("Id") or ""
        )
        return made, self._hijack(at("exec", made, "start"), doing, body={"Detach": False, "Tty": False})

    def _exec_code(self, made: str, container: str, deadline: float | None) -> int:
        """The exit code. The stream ends a moment before the engine has it; there is nothing to wait on."""
        while True:
            answer = table(
                self._json("GET", at("exec", made, "json"), f"container {_short(container)}: exec")
            )
            if not answer.get("Running"):
                return int(answer.get("ExitCode") or 0)
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError("the command closed its output and did not end in time")
            time.sleep(POLL_S)

    def _translated_chunks(self, response: Response, doing: str) -> Iterator[bytes]:
        with translated(doing, self._url):
            yield from response.chunks()


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


def _feed(stream: SocketStream, data: bytes) -> None:
    # A command that does not read its input to the end is not an error.
    with contextlib.suppress(ConnectionLostError):
        stream.write(data)
        stream.close_write()


def _short(container: str) -> str:
    return container[:12]
