"""How large the ledger may be, and what goes when it is too large."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from pytest_envpar.ledger.database import Database

MAX_BYTES = 512 << 20
"""How large the file may become unless the user says otherwise (``ENVPAR_LEDGER_MAX_BYTES``)."""
MAX_RUNS = 5_000
"""Runs that are remembered, of all projects; the oldest go first."""
MAX_OUTCOMES = 4_000_000
"""Outcomes of tests in all of these runs, about 150 MB: histories must not crowd out what is expensive to make."""
MAX_IMAGES = 5_000
"""Images that are remembered; those that were not seen for longest go first."""
_DOWN_TO = 0.9
_BUDGET_S = 0.2
"""How long one call may work; the next one goes on."""
_ROWS = 16
"""Manifests that one transaction removes: others get their turn to write."""
_RUNS = 4
"""Runs that one transaction forgets: more than come meanwhile."""
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
        runs = connection.execute("SELECT id FROM run ORDER BY id LIMIT ?", (_RUNS,)).fetchall()
        if not runs:
            return False
        _remove_runs(connection, [number for (number,) in runs])
    connection.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
    return True


def _forget(connection: sqlite3.Connection) -> None:
    outcomes = 0
    old: list[int] = []
    newest_first = connection.execute("SELECT id, counts FROM run ORDER BY id DESC")
    for place, (number, counts) in enumerate(newest_first):
        outcomes += sum(json.loads(counts).values())
        # The newest stays, whatever its size.
        if place and (place >= MAX_RUNS or outcomes > MAX_OUTCOMES):
            old.append(number)
    if old:
        _remove_runs(connection, old[-_RUNS:])
    gone = connection.execute(
        "DELETE FROM image WHERE id IN (SELECT id FROM image ORDER BY seen DESC LIMIT -1 OFFSET ?)",
        (MAX_IMAGES,),
    )
    if gone.rowcount:
        connection.execute("DELETE FROM layer WHERE diff_id NOT IN (SELECT layer FROM image_layer)")


def _remove_runs(connection: sqlite3.Connection, runs: Sequence[int]) -> None:
    """Remove runs with their outcomes, and the names of tests that no other run has."""
    for run in runs:
        connection.execute(
            "DELETE FROM node WHERE last = ? AND id IN (SELECT node FROM outcome WHERE run = ?)", (run, run)
        )
        connection.execute("DELETE FROM run WHERE id = ?", (run,))
