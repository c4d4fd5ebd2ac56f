"""How the verbs of :class:`~pytest_envpar.engine.docker_api.DockerEngine` ask: one request, one answer, our errors."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from pytest_envpar.engine.connection import Endpoint, HttpClient, Response, TlsFiles
from pytest_envpar.engine.stream import SocketStream
from pytest_envpar.engine.translate import translated
from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_envpar.engine.values.engine import EngineInfo

_REQUEST_TIMEOUT_S = 120.0
_LISTING_TIMEOUT_S = 5.0
POLL_S = 0.02
"""How often is asked again for what nothing can be waited on."""
_GONE_MEANWHILE = (
    "image not known",
    "no such container",
    "no such volume",
    "layer not known",
    "locating item named",
)


class Calls:
    """Requests to the engine at ``url``.

    Args:
        url: ``unix:///path`` or ``tcp://host:port``.
        tls: Certificates for an engine behind TLS.
    """

    _info: EngineInfo
    """Set by whoever asks the engine first."""

    def __init__(self, url: str, tls: TlsFiles | None) -> None:
        self._endpoint = Endpoint.parse(url, tls)
        self._http = HttpClient(self._endpoint)
        self._url = self._endpoint.url
        self._prefix = ""

    @property
    def info(self) -> EngineInfo:
        """See :class:`~pytest_envpar.engine.api.Engine`."""
        return self._info

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | Sequence[str]] | None = None,
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
                time.sleep(POLL_S)

    def _done(
        self,
        method: str,
        path: str,
        doing: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        headers = None if body is None else {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with translated(doing, self._url):
            self._request(method, path, query=query, headers=headers, body=data).read()

    def _hijack(
        self,
        path: str,
        doing: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        raw: bool = False,
    ) -> SocketStream:
        headers = None if body is None else {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with translated(doing, self._url):
            response = self._request("POST", path, query=query, headers=headers, body=data, upgrade=True)
            return SocketStream(response.take_over(), doing, self._url, raw=raw)


def label_filter(labels: Mapping[str, str]) -> dict[str, str]:
    """The query of a listing of what carries all these labels."""
    wanted = [f"{name}={value}" if value else name for name, value in labels.items()]
    return {"filters": json.dumps({"label": wanted})} if wanted else {}
