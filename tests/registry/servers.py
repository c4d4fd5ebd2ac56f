"""Real registries, and a front that stands between one and its clients and misbehaves as a test wants."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.client
import http.server
import ipaddress
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from rig.ports import free_port

from .images import Pusher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

USERS = {
    "one": ("pa:ss:wörd", "$2b$04$/P5iwlDiJLBOXBHB8ENrSuE.A.BhxsPArMCVDbNvScNd.v3oy2H0G"),
    "two": ("other", "$2b$04$qRlYfPyci3c80Hz7rzHy3.Nw7CPCncxlQW56DrnsvmUWEfKcXXsvm"),
}
"""Passwords by user, with their bcrypt hashes: nothing in the standard library makes one."""
START_S = 20.0
PIECE = 1_000_000


def basic(user: str, password: str | None = None) -> str:
    """A header of basic authentication."""
    pair = f"{user}:{USERS[user][0] if password is None else password}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


@dataclasses.dataclass(frozen=True)
class Registry:
    """A registry that runs.

    Args:
        host: ``host:port`` as references have it.
        user: Who may use it; ``None`` for anybody.
        cafile: Its authority's certificate; ``None`` if it speaks plain HTTP.
        process: Its process, which a test may kill.
    """

    host: str
    user: str | None
    cafile: Path | None
    process: subprocess.Popen[bytes] = dataclasses.field(repr=False)

    @property
    def pusher(self) -> Pusher:
        """Puts images into it."""
        scheme = "https" if self.cafile else "http"
        authorization = basic(self.user) if self.user else None
        return Pusher(f"{scheme}://{self.host}", authorization, str(self.cafile) if self.cafile else None)

    @property
    def auth(self) -> dict[str, dict[str, str]]:
        """The ``auths`` of a Docker configuration that may use it."""
        assert self.user is not None
        return {self.host: {"auth": basic(self.user).partition(" ")[2]}}


@contextlib.contextmanager
def serving(
    program: Path,
    folder: Path,
    *,
    address: str = "127.0.0.1",
    port: int | None = None,
    user: str | None = None,
    tls: bool = False,
    auth: str = "",
) -> Iterator[Registry]:
    """Run a registry until the block ends.

    Args:
        folder: What it stores; one that another registry left is taken over.
        port: A free one by default.
        auth: Its configuration of authentication, where ``user`` does not make it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port(address)
    lines = [
        "version: 0.1",
        "log: {level: error, accesslog: {disabled: true}}",
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}, delete: {{enabled: true}}}}",
        f"http:\n  addr: {address}:{port}\n  secret: {folder.name}",
    ]
    cafile = None
    if tls:
        cafile, key = certificate(folder, address)
        lines.append(f"  tls: {{certificate: {cafile}, key: {key}}}")
    if user is not None:
        (folder / "htpasswd").write_text(f"{user}:{USERS[user][1]}\n", encoding="utf-8")
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}}}")
    if auth:
        lines.append(f"auth: {auth}")
    config = folder / "config.yml"
    config.write_text("\n".join([*lines, ""]), encoding="utf-8")
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "serve", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={"OTEL_TRACES_EXPORTER": "none"},
        )
    try:
        _wait(process, address, port, log)
        yield Registry(f"{address}:{port}", user, cafile, process)
    finally:
        process.kill()
        process.wait()


def certificate(folder: Path, address: str) -> tuple[Path, Path]:
    """A certificate for an address that vouches for itself, and its key."""
    cafile, key = folder / "ca.crt", folder / "key.pem"
    kind = "IP" if _is_address(address) else "DNS"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-days", "2", "-subj", "/CN=envpar test", "-addext", f"subjectAltName={kind}:{address}"),
            *("-keyout", str(key), "-out", str(cafile)),
        ],
        check=True,
        capture_output=True,
    )
    return cafile, key


def _is_address(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(text))
    return False


def own_address() -> str | None:
    """An address of this machine beyond the loopback, where engines insist on TLS; asks nobody for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.connect(("192.0.2.1", 9))
        found = str(sock.getsockname()[0])
        return None if found.startswith("127.") else found
    return None


def _wait(process: subprocess.Popen[bytes], address: str, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the registry does not start: {log.read_text(errors='replace')}")
        time.sleep(0.02)


@dataclasses.dataclass
class Ask:
    """One request at a front."""

    method: str
    path: str
    authorization: str | None
    body: bytes = b""

    @property
    def is_blob(self) -> bool:
        return "/blobs/" in self.path

    @property
    def is_manifest(self) -> bool:
        return "/manifests/" in self.path


@dataclasses.dataclass
class Answer:
    """What a front says to it.

    Args:
        cut: After how many bytes of the body the connection dies.
        pause: Called before every further megabyte of the body.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    cut: int | None = None
    pause: Callable[[], object] | None = None


class _Server(http.server.ThreadingHTTPServer):
    """Clients that go away are part of the tests."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Front:
    """A server before a registry. ``rule`` may answer instead of it, or change what it answers.

    Args:
        to: The registry; ``None`` if the rule answers everything.
    """

    def __init__(self, to: Registry | None) -> None:
        self.asked: list[Ask] = []
        self.before: Callable[[Ask], Answer | None] = lambda _: None
        self.after: Callable[[Ask, Answer], Answer] = lambda _, answer: answer
        self._to = to
        front = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                front.handle(self)

            do_HEAD = do_GET  # noqa: N815
            do_POST = do_GET  # noqa: N815

            def log_message(self, *args: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def handle(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        if handler.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(handler.rfile.readline(), 16):
                body += handler.rfile.read(size)
                handler.rfile.readline()
            handler.rfile.readline()
        else:
            body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        ask = Ask(handler.command, handler.path, handler.headers.get("Authorization"), body)
        self.asked.append(ask)
        try:
            answer = self.before(ask) or self.after(ask, self._forward(ask, handler, body))
        except (ConnectionError, http.client.HTTPException):
            # As gateways do before a server that is down; Docker would wait for a minute if nothing answered.
            answer = Answer(502, {"Content-Type": "text/plain"}, b"bad gateway")
        handler.send_response(answer.status)
        given = {key.lower() for key in answer.headers}
        for key, value in answer.headers.items():
            handler.send_header(key, value)
        if "content-length" not in given:
            handler.send_header("Content-Length", str(len(answer.body)))
        handler.end_headers()
        if ask.method != "HEAD":
            body = answer.body[: answer.cut]
            for at in range(0, len(body), PIECE):
                if at and answer.pause is not None:
                    answer.pause()
                handler.wfile.write(body[at : at + PIECE])
        if answer.cut is not None:
            handler.wfile.flush()
            # Reset, not closed: as a machine that goes away.
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            handler.close_connection = True

    def _forward(self, ask: Ask, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Answer:
        if self._to is None:
            return Answer(404, {}, b"{}")
        connection: http.client.HTTPConnection
        if self._to.cafile:
            context = ssl.create_default_context(cafile=str(self._to.cafile))
            connection = http.client.HTTPSConnection(self._to.host, timeout=30, context=context)
        else:
            connection = http.client.HTTPConnection(self._to.host, timeout=30)
        with contextlib.closing(connection):
            # Docker sends several lines of Accept in any order; the first alone may ask for an older form.
            kept = {
                key: ", ".join(handler.headers.get_all(key, ()))
                for key in ("Accept", "Authorization", "Range")
                if key in handler.headers
            }
            connection.request(ask.method, ask.path, body or None, kept)
            made = connection.getresponse()
            headers = {
                key: value for key, value in made.getheaders() if key.lower() not in ("connection", "date")
            }
            return Answer(made.status, headers, made.read())

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class Tokens:
    """A token service: gives what a registry with token authentication believes, to who shows the right thing.

    https://distribution.github.io/distribution/spec/auth/jwt/

    Args:
        folder: Where its key and certificate are made.
    """

    service = "envpar test"
    issuer = "envpar issuer"
    refresh = "identity-0123456789-hush"
    password = "to:ken"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.cafile, self._key = certificate(folder, "127.0.0.1")
        self.front = Front(None)
        self.front.before = self._answer

    @property
    def auth(self) -> str:
        """The registry's configuration."""
        realm = f"http://{self.front.host}/token"
        return (
            f"{{token: {{realm: '{realm}', service: '{self.service}', issuer: '{self.issuer}', "
            f"rootcertbundle: '{self.cafile}'}}}}"
        )

    def allowed(self, name: str) -> str:
        """The header of somebody who may push to a repository."""
        return f"Bearer {self._signed('push,pull', name)}"

    def _answer(self, ask: Ask) -> Answer | None:
        asked = {**_query(urlsplit(ask.path).query), **_query(ask.body.decode())}
        basic_shown = ask.authorization == basic("reader", self.password)
        if not basic_shown and asked.get("refresh_token") != self.refresh:
            return Answer(
                401, {"Content-Type": "application/json"}, b'{"details": "incorrect username or password"}'
            )
        name = asked.get("scope", "").split(":")[1] if ":" in asked.get("scope", "") else ""
        signed = self._signed("pull", name)
        body = json.dumps({"token": signed, "access_token": signed, "expires_in": 300}).encode()
        return Answer(200, {"Content-Type": "application/json"}, body)

    def _signed(self, actions: str, name: str) -> str:
        der = base64.b64encode(ssl.PEM_cert_to_DER_cert(self.cafile.read_text())).decode()
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": self.service,
            "sub": "reader",
            "exp": now + 300,
            "nbf": now - 60,
            "iat": now - 60,
            "jti": str(time.monotonic_ns()),
            "access": [{"type": "repository", "name": name, "actions": actions.split(",")}] if name else [],
        }
        parts = [
            _base64(json.dumps(each).encode())
            for each in ({"typ": "JWT", "alg": "ES256", "x5c": [der]}, claims)
        ]
        text = ".".join(parts)
        made = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self._key)],
            input=text.encode(),
            capture_output=True,
            check=True,
        ).stdout
        return f"{text}.{_base64(_plain_signature(made))}"

    def close(self) -> None:
        """Stop serving."""
        self.front.close()


def _query(text: str) -> dict[str, str]:
    return dict(parse_qsl(text))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _plain_signature(der: bytes) -> bytes:
    """The two numbers of an ECDSA signature, as JWT has them (RFC 7518, 3.4), from the sequence that openssl makes."""
    at, numbers = 2, []
    for _ in range(2):
        size = der[at + 1]
        numbers.append(int.from_bytes(der[at + 2 : at + 2 + size], "big").to_bytes(32, "big"))
        at += 2 + size
    return b"".join(numbers)


def failing(
    times: int, status: int, *, headers: dict[str, str] | None = None, said: str = "busy"
) -> Callable[[Ask], Answer | None]:
    """A rule that fails that many requests for manifests, then no more."""
    left = [times]

    def rule(ask: Ask) -> Answer | None:
        if not ask.is_manifest or left[0] == 0:
            return None
        left[0] -= 1
        body = b'{"errors": [{"code": "%s", "message": "%s"}]}' % (said.upper().encode(), said.encode())
        return Answer(status, {"Content-Type": "application/json", **(headers or {})}, body)

    return rule
