from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from guestbook import GuestBook, InMemory, InRedis, Redis

Call = Callable[..., "tuple[int, Any]"]


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(app: GuestBook) -> Iterator[Call]:
    """Serve ``app``, and call it: ``call("POST", "/", {...})`` gives status and answer."""
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(url + path, data=data, method=method)
            try:
                with opener.open(request, timeout=10) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, json.load(error)

        try:
            yield call
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def redis(envpar_stage: Any, envpar_services: Any) -> Iterator[Redis]:
    """The database of the stage, empty."""
    db = envpar_services.get("db")
    if db is None:
        pytest.skip(f"stage {envpar_stage.name} has no database")
    connection = Redis(db.host, db.port)
    connection("FLUSHALL")
    yield connection
    connection.close()


@pytest.fixture(params=["memory", "redis"])
def call(request: pytest.FixtureRequest) -> Iterator[Call]:
    """Call a guest book without entries."""
    memory = request.param == "memory"
    with served(GuestBook(InMemory() if memory else InRedis(request.getfixturevalue("redis")))) as call:
        yield call
