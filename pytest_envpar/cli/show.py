"""``envpar doctor``, ``ps`` and ``prune``: what there is, as text or JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_envpar import doctor as checks
from pytest_envpar.cli import FAILED, FINE
from pytest_envpar.config import find_config, load_settings
from pytest_envpar.containers import sweep
from pytest_envpar.engine.select import select_engine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_envpar.containers.sweep import OurObject
    from pytest_envpar.engine.api import Engine

JSON_VERSION = 1
_COLUMNS = ("TYPE", "NAME", "KIND", "STATE", "STAGE", "PROJECT")


def doctor(form: str) -> int:
    """Show what works on this machine; returns the exit code."""
    found = checks.run_checks(os.environ)
    _write(form, checks.as_json(found), checks.render_table(found))
    return FAILED if checks.worst(found) == "missing" else FINE


def ps(form: str, *, cache: bool, engine: str | None) -> int:
    """List what is ours on the engine; returns the exit code."""
    with contextlib.closing(_engine(engine)) as connected:
        found = [ours for ours in sweep.list_ours(connected) if cache or ours.state != "cache"]
        nothing = f"nothing of pytest-envpar is on {connected.info.kind} at {connected.info.url}"
    answer = {"version": JSON_VERSION, "objects": [_plain(ours) for ours in found]}
    _write(form, answer, _table(found) if found else [nothing])
    return FINE


def prune(form: str, *, cache: bool, engine: str | None) -> int:
    """Remove what dead runs left, and caches if asked; returns the exit code.

    A cache that a live container uses stays and is told; a leftover that cannot be removed is a failure.
    """
    with contextlib.closing(_engine(engine)) as connected:
        swept = sweep.prune(connected, cache=cache)
    lines = [f"removed {ours.type} {ours.name or ours.id}" for ours in swept.removed]
    lines += [f"could not remove {ours.type} {ours.name or ours.id}: {why}" for ours, why in swept.failed]
    answer = {
        "version": JSON_VERSION,
        "removed": [_plain(ours) for ours in swept.removed],
        "failed": [{**_plain(ours), "reason": why} for ours, why in swept.failed],
    }
    _write(form, answer, lines or ["nothing to remove"])
    return FAILED if any(ours.state != "cache" for ours, _ in swept.failed) else FINE


def _engine(url: str | None) -> Engine:
    """The engine a run in this folder would use."""
    if url is not None:
        return select_engine((url,), os.environ)
    file = find_config(Path.cwd())
    return select_engine(load_settings(file).engines if file is not None else ("auto",), os.environ)


def _plain(ours: OurObject) -> dict[str, Any]:
    return {
        "type": ours.type,
        "id": ours.id,
        "name": ours.name,
        "kind": ours.kind,
        "state": ours.state,
        "status": ours.status,
        "project": ours.project,
        "stage": ours.stage,
        "run": ours.run,
    }


def _table(found: Sequence[OurObject]) -> list[str]:
    rows = [_COLUMNS]
    rows += [
        (each.type, each.name or each.id[:19], each.kind, each.state, each.stage or "-", each.project or "-")
        for each in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _write(form: str, answer: object, lines: Sequence[str]) -> None:
    if form == "json":
        sys.stdout.write(json.dumps(answer, indent=2, sort_keys=True) + "\n")
        return
    for line in lines:
        sys.stdout.write(line + "\n")
