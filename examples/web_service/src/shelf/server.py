"""Serve an application from a thread of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server


@contextmanager
def running(app: Any, log: Callable[[str], None] = lambda line: None) -> Iterator[str]:
    """Serve on a free loopback port; gives the base URL. ``log`` is told every request."""

    class Handler(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            log(format % args)

        def address_string(self) -> str:
            return str(self.client_address[0])

    with make_server("127.0.0.1", 0, app, handler_class=Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
