"""The WSGI application."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from guestbook.stores import Store

_STATUS = {200: "200 OK", 201: "201 Created", 400: "400 Bad Request", 404: "404 Not Found"}


class GuestBook:
    """Entries of guests, served as JSON.

    GET /          how many entries there are, and the newest ten
    POST /         write one: {"name": …, "text": …}; tells its number
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        status, answer = self._answer(environ)
        body = json.dumps(answer, ensure_ascii=False).encode()
        start_response(
            _STATUS[status],
            [("Content-Type", "application/json; charset=utf-8"), ("Content-Length", str(len(body)))],
        )
        return [body]

    def _answer(self, environ: dict[str, Any]) -> tuple[int, Any]:
        if environ["PATH_INFO"] not in ("", "/"):
            return 404, {"error": "no such page"}
        if environ["REQUEST_METHOD"] == "GET":
            entries = [json.loads(entry) for entry in self._store.newest(10)]
            return 200, {"entries": self._store.count(), "newest": entries}
        try:
            written = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
            entry = {"name": written["name"], "text": written["text"]}
        except (ValueError, KeyError, TypeError):
            return 400, {"error": "an entry is a JSON object with name and text"}
        return 201, {"number": self._store.add(json.dumps(entry))}
