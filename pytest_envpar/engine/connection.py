"""HTTP/1.1 to a container engine over a unix, tcp or TLS socket, or by way of ssh.

The engine API hands the socket itself over for streams ("hijacking"), so the bytes behind a response header
must not be lost in a library's buffer; and importing ``docker`` (which imports ``requests``) costs 0.1 s, a
sixth of a whole cold run. A client that only has to speak to Go's HTTP server is small, so this is one; the
``docker`` package is used where its knowledge is deep: the user's registry credentials.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import select
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from pytest_envpar.engine.translate import AnswerError, GoneError, ProtocolError
from pytest_envpar.errors import UsageError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_envpar.engine.ssh import Target

CONNECT_TIMEOUT_S = 3.0
_CHUNK = 1 << 18
_MAX_HEADER = 1 << 16
_MAX_ERROR_BODY = 1 << 20
_MAX_IDLE = 8
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}
"""A machine that has gone away without a word is noticed after half a minute, and not after two hours."""


@dataclasses.dataclass(frozen=True)
class TlsFiles:
    """Certificates for an engine behind TLS; ``verify`` checks the engine's own against ``ca``."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    verify: bool = True


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where an engine listens: a socket ``path``, ``host`` and ``port`` with or without ``tls``, or behind ``ssh``."""

    url: str
    path: str | None = None
    host: str = ""
    port: int = 0
    tls: TlsFiles | None = None
    ssh: Target | None = None

    @classmethod
    def parse(cls, url: str, tls: TlsFiles | None = None) -> Endpoint:
        """The endpoint that an engine URL names; the endpoint's own ``url`` is without credentials.

        Raises:
            UsageError: Another scheme, or no address in it.
        """
        if url.startswith("unix://"):
            path = url[len("unix://") :]
            if not path.startswith("/"):
                path = "/" + path
            return cls(url="unix://" + path, path=path)
        try:
            parts = urlsplit(url)
        except ValueError:  # a bracket that is not closed
            scheme, _, netloc = url.partition("://")
            raise UsageError(f"engine {_without_user(netloc, scheme)}: not a host and a port") from None
        if parts.scheme == "ssh":
            from pytest_envpar.engine.ssh import Target

            target = Target.parse(url)
            return cls(url=target.url, ssh=target)
        if parts.scheme not in ("tcp", "http", "https"):
            raise UsageError(
                f"engine {url.split('://', maxsplit=1)[0]!r}: not an engine",
                hint="one of auto, docker, podman, unix:///path/to.sock, tcp://host:port, ssh://host, context://name",
            )
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host:
            raise UsageError(f"engine {_without_user(parts.netloc, parts.scheme)}: not a host and a port")
        if parts.scheme == "https" and tls is None:
            tls = TlsFiles()
        port = port or (2376 if tls else 2375)
        shown = f"[{host}]" if ":" in host else host
        return cls(url=f"tcp://{shown}:{port}", host=host, port=port, tls=tls)

    def connect(self, timeout_s: float) -> socket.socket:
        """A connected socket; raises OSError, or EngineError without an ``ssh`` command."""
        if self.ssh is not None:
            from pytest_envpar.engine.ssh import Tunnel

            return Tunnel.open(self.ssh)
        if self.path is not None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout_s)
                sock.connect(self.path)
            except BaseException:
                sock.close()
                raise
            return sock
        sock = socket.create_connection((self.host, self.port), timeout=timeout_s)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE.items():
                if hasattr(socket, name):  # Linux
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            return (
                sock
                if self.tls is None
                else _tls_context(self.tls).wrap_socket(sock, server_hostname=self.host)
            )
        except BaseException:
            sock.close()
            raise


def _without_user(netloc: str, scheme: str) -> str:
    return f"{scheme}://{netloc.rpartition('@')[2]}"


def _tls_context(files: TlsFiles) -> ssl.SSLContext:
    import ssl

    context = ssl.create_default_context(cafile=str(files.ca) if files.ca else None)
    if not files.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if files.cert:
        context.load_cert_chain(str(files.cert), str(files.key) if files.key else None)
    return context


class Connection:
    """One socket and what was read from it ahead. Changes with every read; owned by one request at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._ahead = b""

    def idle_is_usable(self) -> bool:
        """Whether a kept connection is still open (an engine that restarted has closed it)."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not self._ahead and not poll.poll(0)

    def send(self, data: bytes, deadline: float | None) -> None:
        self._set_timeout(deadline)
        self.sock.sendall(data)

    def receive(self, deadline: float | None, limit: int = _CHUNK) -> bytes:
        """Up to ``limit`` bytes; nothing at the end of the connection."""
        if self._ahead:
            data, self._ahead = self._ahead[:limit], self._ahead[limit:]
            return data
        self._set_timeout(deadline)
        try:
            return self.sock.recv(limit)
        except ConnectionResetError:
            if hasattr(self.sock, "last_words"):  # ssh ended before it had read everything; it has said why
                return b""
            raise

    def until(self, mark: bytes, deadline: float | None) -> bytes:
        """All bytes up to and without ``mark``."""
        data = b""
        while (at := data.find(mark)) < 0:
            if len(data) > _MAX_HEADER:
                raise ProtocolError("a header without an end")
            more = self.receive(deadline)
            if not more:
                last_words = getattr(self.sock, "last_words", None)  # of ssh
                said = last_words() if last_words is not None else ""
                if said:
                    raise GoneError(f"ssh: {said}")
                raise GoneError(
                    "the connection was closed" if data else "the connection was closed unanswered"
                )
            data += more
        self._ahead = data[at + len(mark) :] + self._ahead
        return data[:at]

    def take_ahead(self) -> bytes:
        """What was read behind the header, for whoever takes the socket over."""
        data, self._ahead = self._ahead, b""
        return data

    def close(self) -> None:
        self.sock.close()

    def _set_timeout(self, deadline: float | None) -> None:
        if deadline is None:
            self.sock.settimeout(None)
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(left)


class Response:
    """An answer whose body may still be on its way. Read it to the end or close it."""

    def __init__(
        self, client: HttpClient, connection: Connection, head: bytes, deadline: float | None
    ) -> None:
        status_line, *lines = head.decode("latin-1").split("\r\n")
        parts = status_line.split(" ", 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
            raise ProtocolError(f"not HTTP: {status_line[:60]!r}")
        self.status = int(parts[1])
        self.headers = {
            name.strip().lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        self.deadline = deadline
        self._client = client
        self._connection: Connection | None = connection

    def chunks(self) -> Iterator[bytes]:
        """The body, piece by piece; once it was read to its end the connection serves the next request."""
        connection = self._connection
        if connection is None:
            return
        try:
            if self.headers.get("transfer-encoding", "").lower() == "chunked":
                yield from self._chunked(connection)
            elif "content-length" in self.headers:
                yield from self._exactly(connection, int(self.headers["content-length"]))
            elif self.status in (204, 304):
                pass
            else:
                while data := connection.receive(self.deadline):
                    yield data
                return
        except GeneratorExit:
            # Left early: what is still on its way cannot be told from the next answer.
            self.close()
            raise
        except BaseException:
            self.close()
            raise
        if self.headers.get("connection", "").lower() != "close":
            self._client.keep(connection)
            self._connection = None
        self.close()

    def _exactly(self, connection: Connection, size: int) -> Iterator[bytes]:
        while size:
            data = connection.receive(self.deadline, min(size, _CHUNK))
            if not data:
                raise GoneError("the connection was closed in the middle of an answer")
            size -= len(data)
            yield data

    def _chunked(self, connection: Connection) -> Iterator[bytes]:
        while True:
            text = connection.until(b"\r\n", self.deadline).split(b";")[0]
            try:
                size = int(text, 16)
            except ValueError:
                raise ProtocolError(f"not a chunk: {text[:20]!r}") from None
            yield from self._exactly(connection, size)
            # After the last chunk come trailers (none from an engine) and an empty line.
            connection.until(b"\r\n", self.deadline)
            if size == 0:
                return

    def read(self) -> bytes:
        return b"".join(self.chunks())

    def json(self) -> Any:
        body = self.read()
        try:
            return json.loads(body) if body.strip() else None
        except ValueError:
            raise ProtocolError(f"not JSON: {body[:60]!r}") from None

    def take_over(self) -> Connection:
        """The connection itself, which no longer speaks HTTP from here on."""
        connection, self._connection = self._connection, None
        if connection is None:
            raise ProtocolError("the connection is gone")
        return connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class HttpClient:
    """Requests to one endpoint from any number of threads, over connections that are kept."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._idle: list[Connection] = []
        self._busy: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._closed = False
        self._cancelled = False

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | Sequence[str]] | None = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        upgrade: bool = False,
    ) -> Response:
        """Send a request and read the answer's header.

        Args:
            path: Path below the engine's root, not quoted.
            body: Bytes, or pieces that are sent as they come.
            timeout_s: Seconds for the whole exchange; ``None`` waits for ever.
            upgrade: Ask for the socket itself (:meth:`Response.take_over`).

        Raises:
            AnswerError: The engine answered with a status of 400 or more.
            OSError, GoneError, ProtocolError: There was no such answer.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        target = quote(path, safe="/:@") + (f"?{urlencode(query, doseq=True)}" if query else "")
        lines = [f"{method} {target} HTTP/1.1", "Host: docker", "User-Agent: pytest-envpar"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if upgrade:
            lines += ["Connection: Upgrade", "Upgrade: tcp"]
        whole = body if isinstance(body, bytes) else b"" if body is None else None
        lines.append("Transfer-Encoding: chunked" if whole is None else f"Content-Length: {len(whole)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        connection = self._connection(timeout_s)
        self._note_busy(connection, method, deadline)
        try:
            if whole is not None:
                self._send(connection, [head + whole], deadline)
            else:
                assert body is not None
                assert not isinstance(body, bytes)
                self._send(connection, _as_chunks(head, body), deadline)
            while True:
                response = Response(self, connection, connection.until(b"\r\n\r\n", deadline), deadline)
                if response.status == 101 or response.status >= 200:
                    break
            if method == "HEAD":
                # The length is that of an answer which does not come.
                response.headers.pop("transfer-encoding", None)
                response.headers["content-length"] = "0"
        except BaseException:
            connection.close()
            raise
        if response.status >= 400:
            raise AnswerError(response.status, _error_message(response))
        return response

    @staticmethod
    def _send(connection: Connection, pieces: Iterable[bytes], deadline: float | None) -> None:
        for piece in pieces:
            try:
                connection.send(piece, deadline)
            except (BrokenPipeError, ConnectionResetError):
                # An engine that refuses a body stops reading it; its answer says why.
                return

    def _connection(self, timeout_s: float | None) -> Connection:
        while True:
            with self._lock:
                if self._closed:
                    raise GoneError("the engine is closed")
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                limit = CONNECT_TIMEOUT_S if timeout_s is None else min(timeout_s, CONNECT_TIMEOUT_S)
                return Connection(self.endpoint.connect(limit))
            if connection.idle_is_usable():
                return connection
            connection.close()

    def keep(self, connection: Connection) -> None:
        """Take a connection back that stands between two requests."""
        with self._lock:
            self._busy.discard(connection)
            if not self._closed and len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def _note_busy(self, connection: Connection, method: str, deadline: float | None) -> None:
        with self._lock:
            if method == "DELETE":
                return
            if not self._cancelled:
                # Only what may take long is cut off: the answer to a short request says what has been made.
                if deadline is None:
                    self._busy.add(connection)
                return
        connection.close()
        raise GoneError("cancelled")

    def cancel(self) -> None:
        """End what is under way and refuse what is new, except for removals."""
        with self._lock:
            self._cancelled = True
            busy = list(self._busy)
        for connection in busy:
            # Not closed: the thread that waits for it does that.
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def _as_chunks(head: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    yield head
    for piece in pieces:
        if piece:
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def _error_message(response: Response) -> str:
    """What the engine says was wrong: its ``message`` (Docker) or ``cause`` and ``message`` (Podman)."""
    body = b""
    # The status is the error here; a body that cannot be read must not hide it.
    with contextlib.suppress(OSError, GoneError, ProtocolError):
        for piece in response.chunks():
            body += piece
            if len(body) > _MAX_ERROR_BODY:
                break
    response.close()
    text = body.decode("utf-8", "replace").strip()
    with contextlib.suppress(ValueError):
        answer = json.loads(text)
        if isinstance(answer, dict) and answer.get("message"):
            return str(answer["message"])
    return text or f"the engine answered {response.status}"
