"""Where the entries are kept."""

from __future__ import annotations

from typing import Protocol

from guestbook.redis import Redis

_KEY = "guestbook"


class Store(Protocol):
    """Keeps lines of text in the order in which they came."""

    def add(self, line: str) -> int:
        """Keep one more line; tells how many there are now."""

    def newest(self, most: int) -> list[str]:
        """The last lines, the newest first."""

    def count(self) -> int:
        """How many lines there are."""


class InMemory:
    """As long as the process lives."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, line: str) -> int:
        self._lines.append(line)
        return len(self._lines)

    def newest(self, most: int) -> list[str]:
        return self._lines[: -most - 1 : -1]

    def count(self) -> int:
        return len(self._lines)


class InRedis:
    """In a list of a Redis server."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def add(self, line: str) -> int:
        return int(self._redis("LPUSH", _KEY, line))

    def newest(self, most: int) -> list[str]:
        return [line.decode() for line in self._redis("LRANGE", _KEY, "0", str(most - 1))]

    def count(self) -> int:
        return int(self._redis("LLEN", _KEY))
