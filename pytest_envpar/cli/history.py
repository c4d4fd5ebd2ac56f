"""``envpar history``: the runs of this project, or what became of one test in them."""

from __future__ import annotations

import datetime as dt
import json
import sys
from typing import TYPE_CHECKING, Any

from pytest_envpar import userfiles
from pytest_envpar.cli import FINE
from pytest_envpar.cli.lock import project
from pytest_envpar.config import get_stage
from pytest_envpar.drift.render import escaped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_envpar.ledger import OutcomeRecord, RunRecord

JSON_VERSION = 1
LIMIT = 20
_NEAR = 5


def history(form: str, nodeid: str | None, *, stage: str | None, limit: int) -> int:
    """Show the last runs, the latest first; returns the exit code.

    Args:
        nodeid: A test; its suffix ``@STAGE`` is the same as ``stage``.
        stage: Only runs of this stage.
        limit: How many are shown.
    """
    settings = project()
    root = str(settings.root)
    if nodeid is not None and stage is None:
        test, _, suffix = nodeid.rpartition("@")
        if test and suffix in settings.stages:
            nodeid, stage = test, suffix
    near: tuple[str, ...] = ()
    with userfiles.open_ledger() as ledger:
        if nodeid is None:
            found: list[tuple[RunRecord, OutcomeRecord | None]] = [
                (run, None) for run in ledger.runs.of_project(root, stage=stage, limit=limit)
            ]
        else:
            found = list(ledger.runs.of_test(root, nodeid, stage=stage, limit=limit))
            near = () if found else ledger.runs.tests_like(root, nodeid, limit=_NEAR)
        problems = ledger.problems
    for problem in problems:
        sys.stderr.write(f"envpar: ledger: {problem}\n")
    if not found and stage is not None and stage not in settings.stages:
        get_stage(settings, stage)  # which says what there is
    if form == "json":
        answer = {
            "version": JSON_VERSION,
            "project": root,
            "nodeid": nodeid,
            "stage": stage,
            "runs": [_plain(run, outcome) for run, outcome in found],
            "similar": list(near),
        }
        sys.stdout.write(json.dumps(answer, indent=2, sort_keys=True) + "\n")
        return FINE
    for line in _lines(found) if found else _nothing(nodeid, stage, near):
        sys.stdout.write(line + "\n")
    return FINE


def _plain(run: RunRecord, outcome: OutcomeRecord | None) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "id": run.id,
        "stage": run.stage,
        "image_id": run.image_id,
        "engine": run.engine,
        "started": _time(run.started).isoformat(timespec="seconds"),
        "duration_s": round(run.ended - run.started, 3),
        "exit_status": run.exit_status,
        "counts": dict(run.counts),
    }
    if outcome is not None:
        plain["outcome"] = outcome.outcome
        plain["test_duration_s"] = round(outcome.duration_s, 6)
    return plain


def _lines(found: Sequence[tuple[RunRecord, OutcomeRecord | None]]) -> list[str]:
    rows = [("RUN", "STARTED", "STAGE", "IMAGE", "RESULT", "TIME")]
    for run, outcome in found:
        if outcome is None:
            counts = ", ".join(f"{count} {escaped(name)}" for name, count in sorted(run.counts.items()))
            result, seconds = (
                f"{counts or 'no tests'} (exit {run.exit_status})",
                f"{run.ended - run.started:.1f} s",
            )
        else:
            result, seconds = escaped(outcome.outcome), f"{outcome.duration_s:.3f} s"
        started = _time(run.started).strftime("%Y-%m-%d %H:%M:%S")
        image = escaped(run.image_id.removeprefix("sha256:")[:12])
        rows.append((str(run.id), started, escaped(run.stage), image, result, seconds))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _nothing(nodeid: str | None, stage: str | None, near: Sequence[str]) -> list[str]:
    where = f" in stage {escaped(stage)}" if stage else ""
    if nodeid is None:
        return [f"no run of this project{where} is in the ledger"]
    lines = [f"no run of {escaped(nodeid)}{where} is in the ledger"]
    return lines + [f"  but of {escaped(name)}" for name in near]


def _time(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.timezone.utc).astimezone()
