"""A small client of Redis: https://redis.io/docs/latest/develop/reference/protocol-spec/, version 2 of the protocol."""

from __future__ import annotations

import socket
import threading
from typing import Any


class RedisError(Exception):
    """The server has refused a command."""


class Redis:
    """One connection; any thread may use it."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=10)
        self._answers = self._socket.makefile("rb")
        self._lock = threading.Lock()

    def __call__(self, *words: str) -> Any:
        """Send a command, and return the answer: a number, bytes, a list of these, or None."""
        encoded = [word.encode() for word in words]
        command = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)
        with self._lock:
            self._socket.sendall(b"*%d\r\n%s" % (len(words), command))
            return self._answer()

    def _answer(self) -> Any:
        line = self._answers.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server has closed the connection")
        kind, text = line[:1], line[1:-2]
        if kind == b"+":
            return text
        if kind == b":":
            return int(text)
        if kind == b"$":
            return None if text == b"-1" else self._answers.read(int(text) + 2)[:-2]
        if kind == b"*":
            return [self._answer() for _ in range(int(text))]
        raise RedisError(text.decode())

    def close(self) -> None:
        self._answers.close()
        self._socket.close()
