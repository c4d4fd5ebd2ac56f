"""How large the ledger may be, and what goes when it is too large."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

    from pytest_envpar.ledger.database import Database

MAX_BYTES = 512 << 20
"""How large the file may become unless the user says otherwise (``ENVPAR_LEDGER_MAX_BYTES``)."""
MAX_RUNS = 5_000
"""Runs that are remembered, of all projects; the oldest go first."""
MAX_IMAGES = 5_000
"""Images that are remembered; those that were not seen for longest go first."""
_DOWN_TO = 0.9
_BUDGET_S = 0.2
"""How long one call may work; the next one goes on."""
_ROWS = 16
"""Manifests or runs that one transaction removes: others get their turn to write."""
_PAGES = 2_048
"""Free pages that one transaction gives back to the file system; the others are used again."""


class Room:
    """Keeps the file below a limit by removing what was not used for longest: manifests, then runs.

    Args:
        database: The ledger's file.
        max_bytes: The limit. Pages that are free count as free.
    """

    def __init__(self, database: Database, max_bytes: int = MAX_BYTES) -> None:
        self._database = database
        self.max_bytes = max_bytes

    def used_bytes(self) -> int:
        """What is in use of the file, in bytes."""
        return self._database.read(_used, 0)

    def make(self) -> None:
        """Remove until there is room again, or the time for it is up."""
        if self.used_bytes() <= self.max_bytes:
            return
        deadline = time.monotonic() + _BUDGET_S
        wanted = int(self.max_bytes * _DOWN_TO)
        while self._database.write(lambda connection: _shrink(connection, wanted), False):
            if time.monotonic() >= deadline:
                return

    def tidy(self) -> None:
        """Remove runs and images beyond their number, and then make room."""
        self._database.write(_forget, None)
        self.make()


def _used(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _shrink(connection: sqlite3.Connection, wanted: int) -> bool:
    """Remove some; True if more has to go."""
    excess = _used(connection) - wanted
    if excess <= 0:
        return False
    going: list[tuple[int]] = []
    for number, size in connection.execute(
        "SELECT id, size FROM manifest WHERE complete ORDER BY used, id LIMIT ?", (_ROWS,)
    ):
        going.append((number,))
        excess -= size
        if excess <= 0:
            break
    if going:
        connection.executemany("DELETE FROM manifest WHERE id = ?", going)
    else:
        rows = connection.execute("SELECT id FROM run ORDER BY id LIMIT ?", (_ROWS,)).fetchall()
        if not rows:
            return False
        connection.executemany("DELETE FROM run WHERE id = ?", rows)
    connection.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
    return True


def _forget(connection: sqlite3.Connection) -> None:
    connection.execute(
        "DELETE FROM run WHERE id IN (SELECT id FROM run ORDER BY id DESC LIMIT ? OFFSET ?)",
        (_ROWS * 4, MAX_RUNS),
    )
    connection.execute(
        "DELETE FROM image WHERE id IN (SELECT id FROM image ORDER BY seen DESC LIMIT -1 OFFSET ?)",
        (MAX_IMAGES,),
    )
