"""A registry asked directly over HTTPS, for engines that have no call for it.

The protocol: https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md; tokens:
https://distribution.github.io/distribution/spec/auth/token/ and .../oauth/. Nothing but manifests and the small
configuration of an image is read, and what comes is checked against its digest before it is believed.
"""

from __future__ import annotations

import dataclasses
import email.utils
import hashlib
import json
import re
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from pytest_envpar.engine.parse.images import platforms
from pytest_envpar.engine.parse.shapes import rows, table
from pytest_envpar.engine.retry import Backoff
from pytest_envpar.engine.values.origins import RemoteImage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_envpar.engine.api import Progress
    from pytest_envpar.engine.registry_auth import Credentials
    from pytest_envpar.images.refusals import Cause

_HUB = "registry-1.docker.io"
_IMAGES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MAX_BYTES = 4 << 20
_PIECE = 1 << 16
_TIMEOUT_S = (5.0, 30.0)
_CLIENT = "pytest-envpar"
_CHALLENGE = re.compile(
    r"\b(Bearer|Basic)\s+((?:[a-z_]+=(?:\"[^\"]*\"|[^\s,]+)(?:\s*,\s*)?)*)", re.IGNORECASE
)
_PARAMETER = re.compile(r"([a-z_]+)=(?:\"([^\"]*)\"|([^\s,]+))", re.IGNORECASE)
_FOLDERS = (Path("/etc/docker/certs.d"), Path("/etc/containers/certs.d"))


class RegistryError(Exception):
    """Why a registry did not give what was asked.

    Args:
        cause: What kind of refusal.
        text: What was said; never a credential.
    """

    def __init__(self, cause: Cause, text: str) -> None:
        super().__init__(text)
        self.cause = cause
        self.text = text


@dataclasses.dataclass(frozen=True)
class Trust:
    """Whose certificates are believed.

    Args:
        file: A bundle that replaces the machine's own authorities; ``None`` for those.
        folders: Folders like Docker's ``certs.d``, one folder per ``host:port``: ``*.crt`` are authorities to believe,
            too, ``*.cert`` and ``*.key`` are what to show of ourselves.
    """

    file: Path | None
    folders: Sequence[Path]

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Trust:
        """What the environment and the machine say."""
        named = next((environ[name] for name in _BUNDLES if environ.get(name)), None)
        home = environ.get("HOME")
        own = (Path(home, ".config/docker/certs.d"), Path(home, ".config/containers/certs.d")) if home else ()
        return cls(Path(named) if named else None, (*_FOLDERS, *own))

    def context(self, host: str) -> ssl.SSLContext:
        """For connections to ``host[:port]``. Raises RegistryError for a file that holds no certificate."""
        file = self.file
        try:
            paths = ssl.get_default_verify_paths()
            if file is None and not paths.cafile and not paths.capath:
                # A Python that was built for another machine knows no authorities; requests brings some.
                file = Path(requests.utils.DEFAULT_CA_BUNDLE_PATH)
            if file is not None and file.is_dir():
                made = ssl.create_default_context(capath=str(file))
            else:
                made = ssl.create_default_context(cafile=None if file is None else str(file))
            for file in sorted(path for each in self.folders for path in (each / host).glob("*.c*rt")):
                if file.suffix == ".crt":
                    made.load_verify_locations(cafile=str(file))
                else:
                    made.load_cert_chain(str(file), str(file.with_suffix(".key")))
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            problem = f"{file}: {getattr(error, 'strerror', None) or error}"
            raise RegistryError("certificate", f"a certificate cannot be read: {problem}") from None
        return made


_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class _Adapter(HTTPAdapter):
    """Connections with our own judgement of certificates."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **named: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **named)

    def proxy_manager_for(self, proxy: str, **named: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._context, **named)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """The context does it; what requests would load is its own list of authorities."""


class RegistryClient:
    """One repository of one registry. Changes: it remembers the token it was given.

    Args:
        host: ``host[:port]`` as references have it.
        name: The repository's complete name.
        credentials: What to show when asked; ``None`` asks as nobody.
        trust: Whose certificates are believed.
        backoff: How often and how long is waited for a registry that does not answer as it should.
        progress: Told when something is tried again.
        wait: Waits for seconds.
    """

    def __init__(
        self,
        host: str,
        name: str,
        credentials: Credentials | None,
        *,
        trust: Trust,
        backoff: Backoff | None = None,
        progress: Progress | None = None,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._host = host
        self._name = name
        self._credentials = credentials
        self._trust = trust
        self._backoff = backoff or Backoff()
        self._progress = progress
        self._wait = wait
        self._session = requests.Session()
        # Nothing from ~/.netrc, and no other list of authorities than ours; proxies are given below.
        self._session.trust_env = False
        self._session.headers["User-Agent"] = _CLIENT
        self._authorization: str | None = None
        server = _HUB if host == "docker.io" else host
        # Engines speak plain HTTP to registries of this machine, too.
        schemes = ("https", "http") if _is_loopback(server) else ("https",)
        self._bases = [f"{scheme}://{server}" for scheme in schemes]
        self._session.mount("https://", _Adapter(trust.context(server)))

    def describe(self, reference: str, tag: str | None, digest: str | None) -> RemoteImage:
        """What is served under a tag or a digest. Raises RegistryError."""
        body, kind, found = self._manifest(digest or tag or "latest", digest)
        content = _object(body)
        kind = str(content.get("mediaType") or kind)
        if kind in _INDEXES:
            described = [table(each).get("platform") for each in rows(content.get("manifests"))]
        elif kind in _IMAGES:
            config = str(table(content.get("config")).get("digest") or "")
            described = [_object(self._blob(config))] if config else []
        else:
            raise RegistryError("other", f"{self._host} serves it in a form that is not known: {kind[:80]}")
        return RemoteImage(reference, found, platforms(described))

    def close(self) -> None:
        """Let go of the connections."""
        self._session.close()

    def _manifest(self, which: str, digest: str | None) -> tuple[bytes, str, str]:
        headers = {"Accept": ", ".join((*_IMAGES, *_INDEXES))}
        body, answer = self._get(f"/v2/{self._name}/manifests/{which}", headers)
        made = f"sha256:{hashlib.sha256(body).hexdigest()}"
        told = digest or answer.get("Docker-Content-Digest") or made
        if told.startswith("sha256:") and told != made:
            raise RegistryError("mismatch", f"{self._host} served {made} as {told}")
        return body, answer.get("Content-Type", "").partition(";")[0].strip(), made

    def _blob(self, digest: str) -> bytes:
        body, _ = self._get(f"/v2/{self._name}/blobs/{digest}", {})
        made = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if made != digest:
            raise RegistryError("mismatch", f"{self._host} served {made} as {digest}")
        return body

    def _get(self, path: str, headers: Mapping[str, str]) -> tuple[bytes, Mapping[str, str]]:
        """The body and headers of an answer of 200, with a token where one is demanded."""
        status, answer, body = self._from_base(path, headers)
        if status == 401 and self._authorize(answer.get("WWW-Authenticate", "")):
            status, answer, body = self._from_base(path, headers)
        if status != 200:
            raise RegistryError(_cause(status), f"{self._host} answered {status}: {_said(body)}")
        return body, answer

    def _from_base(self, path: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        """Ask at the first base that speaks; from then on it is the only one."""
        while len(self._bases) > 1:
            try:
                made = self._send("GET", self._bases[0] + path, headers)
            except RegistryError as error:
                if error.cause not in ("unreachable", "other"):
                    raise
                self._bases.pop(0)
            else:
                del self._bases[1:]
                return made
        return self._send("GET", self._bases[0] + path, headers)

    def _authorize(self, challenge: str) -> bool:
        """Get what the registry demands; whether asking again can help."""
        for scheme, text in _CHALLENGE.findall(challenge):
            given = {key.lower(): quoted or bare for key, quoted, bare in _PARAMETER.findall(text)}
            if scheme.lower() == "bearer" and given.get("realm"):
                self._authorization = f"Bearer {self._token(given)}"
                return True
            if scheme.lower() == "basic" and self._credentials and self._credentials.username:
                self._authorization = _basic(self._credentials)
                return True
        return False

    def _token(self, given: Mapping[str, str]) -> str:
        realm = given["realm"]
        if urlsplit(realm).scheme != "https" and not self._bases[0].startswith("http:"):
            raise RegistryError(
                "denied", f"{self._host} wants the credentials sent to {realm[:200]} in clear text"
            )
        asked = {key: given[key] for key in ("service", "scope") if given.get(key)}
        asked.setdefault("scope", f"repository:{self._name}:pull")
        shown = self._credentials
        self._authorization = None
        if shown is not None and shown.identity_token:
            form = {
                "grant_type": "refresh_token",
                "client_id": _CLIENT,
                "refresh_token": shown.identity_token,
            }
            status, _, body = self._send("POST", realm, {}, form={**asked, **form})
        else:
            headers = {"Authorization": _basic(shown)} if shown else {}
            status, _, body = self._send("GET", realm, headers, query=asked)
        if status != 200:
            # What a token service says may hold what it was shown.
            raise RegistryError(_cause(status), f"the token service of {self._host} answered {status}")
        content = _object(body)
        token = str(content.get("token") or content.get("access_token") or "")
        if not token:
            raise RegistryError("denied", f"the token service of {self._host} gave no token")
        return token

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        query: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request, tried again where the network or the registry may do better the next time."""
        sent = dict(headers)
        if self._authorization is not None and url.startswith(self._bases[0] + "/"):
            sent.setdefault("Authorization", self._authorization)
        attempt = 0
        while True:
            again = True
            asked_s: float | None = None
            try:
                with self._session.request(
                    method,
                    url,
                    headers=sent,
                    params=query,
                    data=form,
                    stream=True,
                    timeout=_TIMEOUT_S,
                    proxies=requests.utils.get_environ_proxies(url),
                ) as response:
                    body = _bounded(response)
                    status = response.status_code
                    answer: Mapping[str, str] = response.headers
            except requests.RequestException as error:
                # Not raised here: what requests raises holds the request, and that the credentials.
                failure, again = _failure(self._host, error)
            else:
                if status != 429 and status < 500:
                    return status, answer, body
                failure = RegistryError(_cause(status), f"{self._host} answered {status}: {_said(body)}")
                asked_s = _retry_after(answer.get("Retry-After"))
            delay_s = self._backoff.delay_s(attempt, asked_s) if again else None
            if delay_s is None:
                if asked_s is not None:
                    failure = RegistryError(failure.cause, f"{failure.text}; ask again in {asked_s:.0f} s")
                raise failure
            if self._progress is not None:
                self._progress(f"{failure.text}: trying again in {delay_s:.0f} s")
            self._wait(delay_s)
            attempt += 1


def _is_loopback(server: str) -> bool:
    host = urlsplit(f"//{server}").hostname or ""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def _basic(credentials: Credentials) -> str:
    import base64

    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def _bounded(response: requests.Response) -> bytes:
    body = b""
    for piece in response.iter_content(_PIECE):
        body += piece
        if len(body) > _MAX_BYTES:
            raise requests.ConnectionError("an answer without an end")
    return body


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        return table(json.loads(body))
    except ValueError:
        return {}


def _cause(status: int) -> Cause:
    if status in (401, 403):
        return "denied"
    if status == 429:
        return "limited"
    if status == 404:
        return "missing"
    return "unreliable" if status >= 500 else "other"


def _said(body: bytes) -> str:
    """The errors of a registry's answer, in a line; bounded, and nothing that moves a cursor."""
    errors = [table(each) for each in rows(_object(body).get("errors"))]
    text = "; ".join(f"{each.get('code', '')} {each.get('message', '')}".strip() for each in errors)
    text = text or body[:200].decode("utf-8", "replace")
    return "".join(sign if sign.isprintable() else " " for sign in text).strip()[:300] or "nothing more"


def _failure(host: str, error: requests.RequestException) -> tuple[RegistryError, bool]:
    """What a failed request means, and whether it is worth another try. The error itself is let go of."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate" in text.lower():
        why = re.search(r"certificate verify failed: ([^(\"']*)", text)
        return RegistryError("certificate", f"{host}: {why[1].strip() if why else 'its certificate'}"), False
    if isinstance(error, requests.exceptions.SSLError):
        return RegistryError("unreachable", f"{host} does not speak TLS as it should"), False
    if isinstance(error, requests.exceptions.ProxyError):
        return RegistryError("unreachable", f"the proxy to {host} does not answer"), False
    for sign, said, again in _NETWORK:
        if sign in text:
            return RegistryError("unreliable" if again else "unreachable", f"{host}: {said}"), again
    if isinstance(error, requests.Timeout):
        return RegistryError("unreachable", f"{host} did not answer in time"), True
    if isinstance(error, (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        return RegistryError("unreliable", f"{host}: the connection broke off"), True
    return RegistryError("other", f"{host}: {type(error).__name__}"), False


_NETWORK = (
    ("Connection refused", "connection refused", False),
    ("No route to host", "no route to host", False),
    ("Network is unreachable", "network is unreachable", False),
    ("without an end", "an answer without an end", False),
    ("Temporary failure in name resolution", "its name cannot be resolved now", True),
    ("Name or service not known", "no such host", False),
    ("Failed to resolve", "no such host", False),
    ("Connection reset", "the connection was reset", True),
)


def _retry_after(text: str | None) -> float | None:
    """Seconds to wait: a number, or a date (RFC 9110, 10.2.3)."""
    if not text:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
