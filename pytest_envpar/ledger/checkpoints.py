"""Checkpoints of containers: which image each one is, and which it was made from."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from pytest_envpar.ledger.text import storable

if TYPE_CHECKING:
    import sqlite3

    from pytest_envpar.ledger.database import Database

_COLUMNS = "project, name, image, parent, created"


@dataclasses.dataclass(frozen=True)
class CheckpointRecord:
    """A checkpoint.

    Args:
        project: The project's root (host), as text.
        name: Its name in the project.
        image_id: The image that holds it.
        parent_id: The image of the container that it was taken from.
        created: Seconds since the epoch; 0 is now.
    """

    project: str
    name: str
    image_id: str
    parent_id: str
    created: float = 0.0


class Checkpoints:
    """The checkpoints that the ledger knows; the images themselves may be gone.

    Args:
        database: The ledger's file.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, checkpoint: CheckpointRecord) -> bool:
        """Remember a checkpoint, in the place of one with its name; False if that is not possible."""
        row = (
            storable(checkpoint.project),
            storable(checkpoint.name),
            storable(checkpoint.image_id),
            storable(checkpoint.parent_id),
            checkpoint.created or time.time(),
        )

        def write(connection: sqlite3.Connection) -> bool:
            connection.execute(f"INSERT OR REPLACE INTO checkpoint ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)", row)
            return True

        return self._database.write(write, False)

    def get(self, project: str, name: str) -> CheckpointRecord | None:
        """The checkpoint of this name; ``None`` if there is none."""
        found = self._select("project = ? AND name = ?", storable(project), storable(name))
        return found[0] if found else None

    def of_project(self, project: str) -> tuple[CheckpointRecord, ...]:
        """All of a project, the oldest first."""
        return self._select("project = ?", storable(project))

    def lineage(self, image_id: str) -> tuple[CheckpointRecord, ...]:
        """How an image came to be: its own checkpoint, the one that this was made from, and so on."""
        chain: list[CheckpointRecord] = []
        passed = {image_id}
        while found := self._select("image = ?", storable(image_id)):
            chain.append(found[-1])
            image_id = found[-1].parent_id
            if image_id in passed:
                break
            passed.add(image_id)
        return tuple(chain)

    def remove(self, project: str, name: str) -> None:
        """Forget a checkpoint."""
        named = (storable(project), storable(name))

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM checkpoint WHERE project = ? AND name = ?", named)

        self._database.write(write, None)

    def _select(self, where: str, *values: str) -> tuple[CheckpointRecord, ...]:
        return self._database.read(
            lambda connection: tuple(
                CheckpointRecord(*row)
                for row in connection.execute(
                    f"SELECT {_COLUMNS} FROM checkpoint WHERE {where} ORDER BY created, name", values
                )
            ),
            (),
        )
