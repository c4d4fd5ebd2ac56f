"""The connection to the ledger's file: transactions for many processes, migration, and what to do when it fails.

Nothing here stops a run. A file that is broken is set aside and begun anew; one that cannot be reached, written to or
understood is left alone, and whoever reads gets the answer that an empty ledger gives.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from typing import TYPE_CHECKING, TypeVar

from pytest_envpar.ledger.place import Identity, Place, UnusableError, is_broken
from pytest_envpar.ledger.schema import APPLICATION_ID, STEPS, VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

T = TypeVar("T")

BUSY_S = 5.0
"""How long one process waits for another that writes. After it waited in vain once, it hardly waits any more."""
_IMPATIENT_S = 0.05
_LOG_BYTES = 16 << 20


class Database:
    """One process's connection, made at the first use. Any thread may use it; they take turns.

    Args:
        path: The file (host).
        busy_s: Seconds to wait for a process that writes.
        vfs: SQLite's own name of the way to the file system, for tests.
        steps: The steps of the schema.
    """

    def __init__(
        self,
        path: Path,
        *,
        busy_s: float = BUSY_S,
        vfs: str | None = None,
        steps: Sequence[Sequence[str]] = STEPS,
    ) -> None:
        self._place = Place(path)
        self._busy_s = busy_s
        self._vfs = vfs
        self._steps = steps
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._identity: Identity | None = None
        # Whoever names this wants no ledger; that is no problem to be told.
        self._off = str(path) == os.devnull
        self._healed = False
        self._problems: dict[str, None] = {}

    @property
    def path(self) -> Path:
        """The file (host)."""
        return self._place.path

    @property
    def problems(self) -> tuple[str, ...]:
        """What went wrong so far, a sentence each, without repetitions."""
        return tuple(self._problems)

    def usable(self) -> bool:
        """Whether the file could be opened, and understood."""
        with self._lock:
            return self._ready() is not None

    def read(self, work: Callable[[sqlite3.Connection], T], default: T) -> T:
        """What ``work`` reads; ``default`` if the ledger cannot be read."""
        with self._lock:
            for _ in range(2):
                connection = self._ready()
                if connection is None:
                    return default
                try:
                    return work(connection)
                except sqlite3.DatabaseError as error:
                    if not self._goes_on(error):
                        return default
            return default

    def write(self, work: Callable[[sqlite3.Connection], T], default: T) -> T:
        """Do ``work`` in one transaction, or not at all; ``default`` if the ledger cannot be written."""

        def within(connection: sqlite3.Connection) -> T:
            # Immediate: a transaction that begins as a reader cannot wait for its turn to write.
            connection.execute("BEGIN IMMEDIATE")
            try:
                made = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            return made

        return self.read(within, default)

    def snapshot(self) -> sqlite3.Connection | None:
        """Another connection, for one reader that takes its time; the caller closes it."""
        with self._lock:
            if self._ready() is None:
                return None
            try:
                connection = self._connect(self._place.path)
                connection.execute("BEGIN")
            except sqlite3.Error as error:
                self.complain(error)
                return None
            return connection

    def complain(self, error: Exception | str) -> None:
        """Remember what went wrong."""
        text = str(error)
        self._problems.setdefault(text if str(self.path) in text else f"{self.path}: {text}")

    def close(self) -> None:
        """Let go of the file. Never fails; safe to repeat. Nothing is read or written afterwards."""
        with self._lock:
            self._off = True
            self._disconnect()

    # --- opening -------------------------------------------------------------------------------------------------

    def _ready(self) -> sqlite3.Connection | None:
        for _ in range(2):
            if self._off or self._connection is not None:
                return self._connection
            try:
                self._open()
            except sqlite3.DatabaseError as error:
                self._disconnect()
                if not self._goes_on(error):
                    self._off = True
            except (UnusableError, OSError) as error:
                self._disconnect()
                self.complain(error)
                self._off = True
        return self._connection

    def _open(self) -> None:
        self._identity = self._place.identity()
        if self._identity is None:
            self._place.create(self._fill)
            self._identity = self._place.identity()
        connection = self._connection = self._connect(self._place.path)
        found = _pragma(connection, "user_version")
        known = len(self._steps)
        if _pragma(connection, "application_id") != APPLICATION_ID:
            if found or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise UnusableError(f"{self.path} is the database of another program; it is left alone")
            self._prepare(connection)
        if found > known:
            raise UnusableError(
                f"{self.path} was written by a newer pytest-envpar (version {found}, this one knows {known}): "
                "nothing is read from it or written to it"
            )
        if found < known:
            self._migrate(connection)

    def _fill(self, path: Path) -> None:
        with contextlib.closing(self._connect(path)) as connection:
            self._prepare(connection)
            self._migrate(connection)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """What has to be said before the first table."""
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        if self._place.shared_memory():
            # The answer is "delete" where SQLite cannot; that works as well, with readers and writers in turn.
            connection.execute("PRAGMA journal_mode = WAL").fetchone()

    def _connect(self, path: Path) -> sqlite3.Connection:
        where = f"{path.absolute().as_uri()}?mode=rw" + (f"&vfs={self._vfs}" if self._vfs else "")
        connection = sqlite3.connect(
            where, uri=True, timeout=self._busy_s, isolation_level=None, check_same_thread=False
        )
        try:
            # After a power cut the last transactions may be missing; the file is whole.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            # Debian's SQLite overwrites what is removed; to make room would take longer than to fill it.
            connection.execute("PRAGMA secure_delete = OFF").fetchone()
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have done it while this one waited for its turn.
            for step in self._steps[_pragma(connection, "user_version") :]:
                for statement in step:
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(self._steps)}")
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    # --- failing -------------------------------------------------------------------------------------------------

    def _goes_on(self, error: sqlite3.DatabaseError) -> bool:
        """Whether to try again, on a new file; else the error is remembered."""
        if isinstance(error, (sqlite3.ProgrammingError, sqlite3.IntegrityError, sqlite3.DataError)):
            raise error  # a mistake of ours
        if not is_broken(error) or self._healed or self._identity is None:
            if "locked" in str(error) and self._connection is not None:
                self._busy_s = _IMPATIENT_S
                self._connection.execute(f"PRAGMA busy_timeout = {int(_IMPATIENT_S * 1000)}")
            self.complain(error)
            if is_broken(error):
                self._disconnect()
                self._off = True
            return False
        self._healed = True
        self._disconnect()
        try:
            aside = self._place.set_aside(self._identity)
        except (UnusableError, OSError) as failure:
            self.complain(f"{error}; it could not be set aside: {failure}")
            self._off = True
            return False
        if aside is not None:
            self.complain(f"{error}; set aside as {aside.name} and begun anew")
        return True


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


__all__ = ["BUSY_S", "VERSION", "Database"]
