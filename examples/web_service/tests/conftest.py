from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shelf import Shelf, running

Call = Callable[..., "tuple[int, Any]"]


@pytest.fixture(scope="session")
def request_log(pytestconfig: pytest.Config) -> Path:
    file = pytestconfig.rootpath / "reports" / "requests.log"
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    return file


@pytest.fixture
def call(tmp_path: Path, request_log: Path) -> Iterator[Call]:
    """Call a service of its own: ``call("POST", "/books", {...})`` gives status and answer."""

    def log(line: str) -> None:
        with request_log.open("a") as file:
            file.write(line + "\n")

    # Never through a proxy that the environment names: the service is on loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with running(Shelf(str(tmp_path / "shelf.db")), log) as url:

        def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(url + path, data=data, method=method)
            try:
                with opener.open(request, timeout=5) as answer:
                    status, text = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    status, text = error.code, error.read()
            return status, json.loads(text) if text else None

        yield call
