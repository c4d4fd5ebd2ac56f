"""Manifests and package inventories: opaque bytes by key, kept as long as there is room.

They are stored as they are given (compress before, if at all) in chunks with a checksum each: a damaged one is as good
as none. Whoever makes them decides on the keys. Customary are a layer's diff ID (``sha256:…``), ``container:…`` for the
state of a container and ``stat:…`` for a table of (inode, ctime); ``version`` is that of the bytes' own format.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import time
import zlib
from typing import TYPE_CHECKING

from pytest_envpar.ledger.text import storable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_envpar.ledger.database import Database
    from pytest_envpar.ledger.room import Room

CHUNK_BYTES = 1 << 20
_BATCH = 8
"""Chunks per transaction: others get their turn to write while a large manifest is stored."""
_TOUCH_S = 600.0
"""A use is remembered if the last one is longer ago than this: a reader seldom has to write."""
_UNFINISHED_S = 86_400.0
"""When a manifest that nobody finished is taken for left behind."""
_MANY = 500
"""Keys per query; SQLite's own limit is 999 in older versions."""


class DamagedError(Exception):
    """A manifest turned out damaged while it was read piece by piece. It is removed: make it anew."""


class Manifests:
    """Bytes by (key, kind, version).

    Args:
        database: The ledger's file.
        room: Makes room when the file grows too large.
    """

    def __init__(self, database: Database, room: Room) -> None:
        self._database = database
        self._room = room
        self._touched: dict[int, float] = {}

    def get(self, key: str, kind: str, version: int) -> bytes | None:
        """The bytes; ``None`` if they are not there."""
        return self.get_many((key,), kind, version).get(key)

    def get_many(self, keys: Iterable[str], kind: str, version: int) -> dict[str, bytes]:
        """The bytes of those of ``keys`` that are there, all of them as they are at one moment."""
        wanted = list(dict.fromkeys(keys))

        def read(connection: sqlite3.Connection) -> tuple[dict[str, bytes], list[int]]:
            found: dict[str, bytes] = {}
            damaged: list[int] = []
            connection.execute("BEGIN")
            try:
                for key, number, size, used in _find(connection, wanted, kind, version):
                    pieces = connection.execute(
                        "SELECT crc, data FROM chunk WHERE manifest = ? ORDER BY position", (number,)
                    )
                    whole = _joined(pieces.fetchall(), size)
                    if whole is None:
                        damaged.append(number)
                        continue
                    found[key] = whole
                    self._touch(number, used)
            finally:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("COMMIT")
            return found, damaged

        nothing: tuple[dict[str, bytes], list[int]] = ({}, [])
        found, damaged = self._database.read(read, nothing)
        if damaged:
            self._remove(damaged)
        return found

    def has(self, keys: Iterable[str], kind: str, version: int) -> frozenset[str]:
        """Which of ``keys`` are there, without reading their bytes."""
        wanted = list(dict.fromkeys(keys))
        return self._database.read(
            lambda connection: frozenset(row[0] for row in _find(connection, wanted, kind, version)),
            frozenset(),
        )

    def stream(self, key: str, kind: str, version: int) -> Iterator[bytes] | None:
        """The bytes in pieces of at most :data:`CHUNK_BYTES`; ``None`` if they are not there.

        What is read is what was there at the call, whatever others write or remove meanwhile. Exhaust the iterator, or
        close it.

        Raises:
            DamagedError: From the iterator, in the middle.
        """
        connection = self._database.snapshot()
        if connection is None:
            return None
        try:
            rows = _find(connection, [key], kind, version)
        except sqlite3.Error as error:
            self._database.complain(error)
            rows = []
        if not rows:
            connection.close()
            return None
        _, number, size, used = rows[0]
        self._touch(number, used)
        return self._pieces(connection, number, size, key)

    def _pieces(self, connection: sqlite3.Connection, number: int, size: int, key: str) -> Iterator[bytes]:
        with contextlib.closing(connection):
            read = position = 0
            while read < size:
                try:
                    row = connection.execute(
                        "SELECT crc, data FROM chunk WHERE manifest = ? AND position = ?", (number, position)
                    ).fetchone()
                except sqlite3.Error as error:
                    self._database.complain(error)
                    row = None
                if row is None or zlib.crc32(row[1]) != row[0]:
                    self._remove([number])
                    raise DamagedError(f"{self._database.path}: the manifest of {key} is damaged")
                yield row[1]
                read += len(row[1])
                position += 1

    def put(self, key: str, kind: str, version: int, data: bytes | Iterable[bytes]) -> bool:
        """Store the bytes in the place of what is there; False if that is not possible.

        Args:
            data: The bytes, or pieces of any size, of which only some are in memory at a time. Readers see the new
                bytes once all of them are there.
        """
        chunks = _chunks((data,) if isinstance(data, bytes) else data)
        number: int | None = None
        size = position = 0
        batch = _take(chunks)
        while True:
            following = _take(chunks) if len(batch) == _BATCH else []
            size += sum(map(len, batch))
            if size > self._room.max_bytes:
                self._remove([] if number is None else [number])
                self._database.complain(f"the manifest of {key} is larger than the whole ledger may be")
                return False
            number = self._store(number, position, batch, None if following else (key, kind, version, size))
            if number is None or not following:
                break
            position += len(batch)
            batch = following
        self._room.make()
        return number is not None

    def _store(
        self,
        number: int | None,
        position: int,
        batch: Sequence[bytes],
        last: tuple[str, str, int, int] | None,
    ) -> int | None:
        """Write one batch; the last one makes the manifest visible."""

        def write(connection: sqlite3.Connection) -> int:
            now = time.time()
            made = number
            if made is None:
                cursor = connection.execute(
                    "INSERT INTO manifest (key, kind, version, size, complete, used) VALUES ('', '', 0, 0, 0, ?)",
                    (now,),
                )
                assert cursor.lastrowid is not None
                made = cursor.lastrowid
            connection.executemany(
                "INSERT INTO chunk VALUES (?, ?, ?, ?)",
                [(made, position + index, zlib.crc32(piece), piece) for index, piece in enumerate(batch)],
            )
            if last is not None:
                key, kind, version, size = last
                named = (storable(key), kind, version)
                connection.execute(
                    "DELETE FROM manifest WHERE key = ? AND kind = ? AND version = ? AND complete", named
                )
                connection.execute(
                    "UPDATE manifest SET key = ?, kind = ?, version = ?, size = ?, complete = 1, used = ? WHERE id = ?",
                    (*named, size, now, made),
                )
                connection.execute(
                    "DELETE FROM manifest WHERE NOT complete AND used < ?", (now - _UNFINISHED_S,)
                )
            return made

        return self._database.write(write, None)

    def remove(self, keys: Iterable[str], kind: str) -> None:
        """Forget these, of whatever version."""
        wanted = [(storable(key), kind) for key in keys]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM manifest WHERE key = ? AND kind = ? AND complete", wanted)

        self._database.write(write, None)

    def flush(self) -> None:
        """Write down what was used; done when the ledger is closed."""
        touched, self._touched = self._touched, {}
        rows = [(used, number) for number, used in touched.items()]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("UPDATE manifest SET used = max(used, ?) WHERE id = ?", rows)

        if rows:
            self._database.write(write, None)

    def _touch(self, number: int, used: float) -> None:
        now = time.time()
        if not 0 <= now - used < _TOUCH_S:
            self._touched[number] = now

    def _remove(self, numbers: Sequence[int]) -> None:
        rows = [(number,) for number in numbers]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM manifest WHERE id = ?", rows)

        if rows:
            self._database.write(write, None)


class Packages:
    """Package inventories by (key, version), as opaque bytes; the keys are those of manifests.

    Args:
        manifests: Where they are kept.
    """

    _KIND = "packages"

    def __init__(self, manifests: Manifests) -> None:
        self._manifests = manifests

    def get(self, key: str, version: int) -> bytes | None:
        """The inventory; ``None`` if it is not there."""
        return self._manifests.get(key, self._KIND, version)

    def get_many(self, keys: Iterable[str], version: int) -> dict[str, bytes]:
        """Those inventories of ``keys`` that are there."""
        return self._manifests.get_many(keys, self._KIND, version)

    def put(self, key: str, version: int, data: bytes) -> bool:
        """Store an inventory; False if that is not possible."""
        return self._manifests.put(key, self._KIND, version, data)


def _find(
    connection: sqlite3.Connection, keys: Sequence[str], kind: str, version: int
) -> list[tuple[str, int, int, float]]:
    """Key, number, size and last use of what is there."""
    named = {storable(key): key for key in keys}
    stored = list(named)
    found: list[tuple[str, int, int, float]] = []
    for start in range(0, len(stored), _MANY):
        some = stored[start : start + _MANY]
        rows = connection.execute(
            "SELECT key, id, size, used FROM manifest WHERE complete AND kind = ? AND version = ? AND key IN "
            f"({', '.join('?' * len(some))})",
            (kind, version, *some),
        )
        found += [(named[key], number, size, used) for key, number, size, used in rows]
    return found


def _joined(rows: Sequence[tuple[int, bytes]], size: int) -> bytes | None:
    if any(zlib.crc32(data) != crc for crc, data in rows):
        return None
    whole = rows[0][1] if len(rows) == 1 else b"".join(data for _, data in rows)
    return whole if len(whole) == size else None


def _chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of :data:`CHUNK_BYTES`, the last one smaller."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        view = memoryview(piece)
        while view:
            part = view[: CHUNK_BYTES - size]
            held.append(bytes(part))
            size += len(part)
            view = view[len(part) :]
            if size == CHUNK_BYTES:
                yield b"".join(held)
                held, size = [], 0
    if held:
        yield b"".join(held)


def _take(chunks: Iterator[bytes]) -> list[bytes]:
    return list(itertools.islice(chunks, _BATCH))
