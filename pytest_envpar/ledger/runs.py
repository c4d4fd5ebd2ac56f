"""Runs of stages and the outcomes of their tests: what happened when, and in which image a test was last green."""

from __future__ import annotations

import dataclasses
import json
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.ledger.text import storable

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

    from pytest_envpar.ledger.database import Database
    from pytest_envpar.ledger.room import Room

GREEN = ("passed", "xfailed")
"""Outcomes of a test that went as it should."""
_COLUMNS = "id, project, stage, image, engine, started, ended, exit_status, counts, manifest"
_RUN = ", ".join(f"run.{name}" for name in _COLUMNS.split(", "))
_OUTCOME = "node.name, outcome.outcome, outcome.duration, coalesce(outcome.manifest, run.manifest)"


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """One run of a project's suite in one stage.

    Args:
        project: The project's root (host), as text.
        image_id: The image it ran in.
        engine: What ran it: ``docker 20.10.24 at unix:///var/run/docker.sock``.
        started: Seconds since the epoch, as ``ended``.
        exit_status: pytest's.
        counts: How many tests had which outcome.
        manifest_key: Under which key the ledger has the state that the suite ran in, if not under the image's layers.
        id: Given by the ledger; later runs have larger ones.
    """

    project: str
    stage: str
    image_id: str
    engine: str
    started: float
    ended: float
    exit_status: int
    counts: Mapping[str, int] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    manifest_key: str | None = None
    id: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class OutcomeRecord:
    """How one test ended in one run.

    Args:
        nodeid: As pytest shows it with one stage: without the stage's suffix.
        outcome: ``passed``, ``failed``, ``error``, ``skipped``, ``xfailed``, ``xpassed``.
        duration_s: Setup, call and teardown together.
        manifest_key: As of the run, if this test ran in another state; what is read back has the run's if it had none.
    """

    nodeid: str
    outcome: str
    duration_s: float = 0.0
    manifest_key: str | None = None


class Runs:
    """The history of runs.

    Args:
        database: The ledger's file.
        room: Makes room when there are too many.
    """

    def __init__(self, database: Database, room: Room) -> None:
        self._database = database
        self._room = room

    def record(self, run: RunRecord, outcomes: Iterable[OutcomeRecord] = ()) -> int | None:
        """Remember a run; returns its id, ``None`` if that is not possible."""
        project = storable(run.project)
        ended = [
            (storable(each.nodeid), each.outcome, each.duration_s, each.manifest_key) for each in outcomes
        ]

        def write(connection: sqlite3.Connection) -> int:
            made = connection.execute(
                "INSERT INTO run (project, stage, image, engine, started, ended, exit_status, counts, manifest)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    project,
                    storable(run.stage),
                    storable(run.image_id),
                    storable(run.engine),
                    run.started,
                    run.ended,
                    run.exit_status,
                    json.dumps(dict(run.counts), sort_keys=True),
                    run.manifest_key,
                ),
            ).lastrowid
            assert made is not None
            connection.executemany(
                "INSERT INTO node (project, name, last) VALUES (?, ?, ?)"
                " ON CONFLICT (project, name) DO UPDATE SET last = excluded.last",
                [(project, name, made) for name, *_ in ended],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO outcome (run, node, outcome, duration, manifest)"
                " VALUES (?, (SELECT id FROM node WHERE project = ? AND name = ?), ?, ?, ?)",
                [(made, project, name, outcome, duration, key) for name, outcome, duration, key in ended],
            )
            return made

        made = self._database.write(write, None)
        self._room.tidy()
        return made

    def of_project(self, project: str, *, stage: str | None = None, limit: int = 20) -> tuple[RunRecord, ...]:
        """The runs of a project, the latest first."""
        where, values = _where(project, stage)
        return self._database.read(
            lambda connection: tuple(
                _run(row)
                for row in connection.execute(
                    f"SELECT {_RUN} FROM run WHERE {where} ORDER BY run.id DESC LIMIT ?", (*values, limit)
                )
            ),
            (),
        )

    def outcomes(self, run: int) -> tuple[OutcomeRecord, ...]:
        """How the tests of a run ended, sorted by node id."""
        return self._database.read(
            lambda connection: tuple(
                OutcomeRecord(*row)
                for row in connection.execute(
                    f"SELECT {_OUTCOME} FROM outcome JOIN node ON node.id = outcome.node JOIN run ON"
                    " run.id = outcome.run WHERE outcome.run = ? ORDER BY node.name",
                    (run,),
                )
            ),
            (),
        )

    def of_test(
        self, project: str, nodeid: str, *, stage: str | None = None, limit: int = 20
    ) -> tuple[tuple[RunRecord, OutcomeRecord], ...]:
        """The runs that a test was part of, each with how it ended, the latest first."""
        where, values = _where(project, stage)
        return self._select(f"{where} AND node.name = ?", (*values, storable(nodeid)), limit)

    def tests_like(self, project: str, text: str, *, limit: int = 5) -> tuple[str, ...]:
        """Node ids of a project that ``text`` is a part of, or is what stands before their parameters, sorted."""
        return self._database.read(
            lambda connection: tuple(
                row[0]
                for row in connection.execute(
                    "SELECT name FROM node WHERE project = ? AND instr(lower(name), lower(?)) ORDER BY name LIMIT ?",
                    (storable(project), storable(text.partition("[")[0]), limit),
                )
            ),
            (),
        )

    def last_green(self, project: str, stage: str, nodeid: str) -> tuple[RunRecord, OutcomeRecord] | None:
        """The last run of ``stage`` in which the test went as it should; ``None`` if there is none."""
        where, values = _where(project, stage)
        green = f"{where} AND node.name = ? AND outcome.outcome IN ({', '.join('?' * len(GREEN))})"
        found = self._select(green, (*values, storable(nodeid), *GREEN), 1)
        return found[0] if found else None

    def _select(
        self, where: str, values: tuple[str, ...], limit: int
    ) -> tuple[tuple[RunRecord, OutcomeRecord], ...]:
        return self._database.read(
            lambda connection: tuple(
                (_run(row[:-4]), OutcomeRecord(*row[-4:]))
                for row in connection.execute(
                    # CROSS JOIN: in this order. From run to run until there are enough; each is one look-up.
                    f"SELECT {_RUN}, {_OUTCOME} FROM node CROSS JOIN run ON run.project = node.project"
                    " CROSS JOIN outcome ON outcome.run = run.id AND outcome.node = node.id"
                    f" WHERE {where} ORDER BY run.id DESC LIMIT ?",
                    (*values, limit),
                )
            ),
            (),
        )


def _where(project: str, stage: str | None) -> tuple[str, tuple[str, ...]]:
    if stage is None:
        return "run.project = ?", (storable(project),)
    return "run.project = ? AND run.stage = ?", (storable(project), storable(stage))


def _run(row: tuple[object, ...]) -> RunRecord:
    number, project, stage, image, engine, started, ended, status, counts, manifest = row
    return RunRecord(
        project=str(project),
        stage=str(stage),
        image_id=str(image),
        engine=str(engine),
        started=float(started),  # type: ignore[arg-type]
        ended=float(ended),  # type: ignore[arg-type]
        exit_status=int(status),  # type: ignore[call-overload]
        counts=json.loads(str(counts)),
        manifest_key=None if manifest is None else str(manifest),
        id=int(number),  # type: ignore[call-overload]
    )
