"""The ledger: one SQLite file that remembers images, layers, manifests, checkpoints, runs and outcomes.

    with Ledger(userfiles.ledger_path()) as ledger:           # or userfiles.open_ledger(), with the user's limit
        data = ledger.manifests.get(diff_id, "files", 1)    # None: make it, and
        ledger.manifests.put(diff_id, "files", 1, data)
        ledger.runs.last_green(project, "qa", nodeid)

Everything in it can be made again, or is history: deleting it costs time, never truth. So nothing here raises because
of the file. Where it is broken it is begun anew; where it cannot be used, reading finds nothing, writing says False,
and :attr:`Ledger.problems` says why. Many processes and threads may use one file at the same time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_envpar.ledger.checkpoints import CheckpointRecord, Checkpoints
from pytest_envpar.ledger.database import BUSY_S, Database
from pytest_envpar.ledger.images import ImageRecord, Images, LayerRecord
from pytest_envpar.ledger.manifests import CHUNK_BYTES, DamagedError, Manifests, Packages
from pytest_envpar.ledger.room import MAX_BYTES, Room
from pytest_envpar.ledger.runs import GREEN, OutcomeRecord, RunRecord, Runs

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "CHUNK_BYTES",
    "GREEN",
    "MAX_BYTES",
    "CheckpointRecord",
    "DamagedError",
    "ImageRecord",
    "LayerRecord",
    "Ledger",
    "OutcomeRecord",
    "RunRecord",
]


class Ledger:
    """The ledger in one file, which is opened at the first use. Not to be carried over a fork.

    Args:
        path: The file (host). It and its folder are made at the first use.
        max_bytes: How large it may become; the least recently used manifests make room.
        busy_s: Seconds to wait for another process that writes.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, busy_s: float = BUSY_S) -> None:
        self._database = Database(path, busy_s=busy_s)
        self.room = Room(self._database, max_bytes)
        self.images = Images(self._database)
        self.manifests = Manifests(self._database, self.room)
        self.packages = Packages(self.manifests)
        self.checkpoints = Checkpoints(self._database)
        self.runs = Runs(self._database, self.room)

    @property
    def path(self) -> Path:
        """The file (host)."""
        return self._database.path

    @property
    def usable(self) -> bool:
        """Whether the file can be used; opens it."""
        return self._database.usable()

    @property
    def problems(self) -> tuple[str, ...]:
        """What went wrong so far, a sentence each."""
        return self._database.problems

    def close(self) -> None:
        """Write down what was used, and let go of the file. Never fails; safe to repeat."""
        self.manifests.flush()
        self._database.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
