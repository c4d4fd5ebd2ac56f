"""``envpar doctor``, ``ps`` and ``prune``: what there is, as text or JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_envpar import doctor as checks
from pytest_envpar.cli import FAILED, FINE
from pytest_envpar.config import find_config, load_settings
from pytest_envpar.containers import sweep
from pytest_envpar.engine.select import select_engine
from pytest_envpar.errors import ConfigError, NoEngineError
from pytest_envpar.images.tags import label_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_envpar.containers.sweep import OurObject
    from pytest_envpar.engine.api import Engine

JSON_VERSION = 1
_COLUMNS = ("TYPE", "NAME", "KIND", "STATE", "STAGE", "PROJECT")


def doctor(form: str) -> int:
    """Show what works on this machine; returns the exit code."""
    file = find_config(Path.cwd())
    try:
        engines = load_settings(file).engines if file is not None else ("auto",)
    except ConfigError:
        engines = ("auto",)  # a broken configuration is told by whoever needs it
    found = checks.run_checks(os.environ, engines)
    _write(form, checks.as_json(found), checks.render_table(found))
    return FAILED if checks.worst(found) == "missing" else FINE


def ps(form: str, *, cache: bool, engine: str | None) -> int:
    """List what is ours on the engine; returns the exit code."""
    found: list[tuple[OurObject, str]] = []
    nothing: list[str] = []
    with _engines(engine) as connected:
        for each in connected:
            listed = [ours for ours in sweep.list_ours(each) if cache or ours.state != "cache"]
            found += [(ours, each.info.url) for ours in listed]
            nothing.append(f"nothing of pytest-envpar is on {each.info.kind} at {each.info.url}")
        several = len(connected) > 1
    answer = {"version": JSON_VERSION, "objects": [_plain(*each) for each in found]}
    _write(form, answer, _table(found, several=several) if found else nothing)
    return FINE


def prune(form: str, *, cache: bool, engine: str | None, project: bool = False) -> int:
    """Remove what dead runs left or kept, and caches if asked; returns the exit code.

    As text it first says how much of which project goes. A cache that a live container uses stays and is told; a
    leftover that cannot be removed is a failure.

    Args:
        project: Only of the project of the current folder; else of all projects on the engine.
    """
    root = _project() if project else None
    with _engines(engine) as connected:
        several = len(connected) > 1
        swept = [
            (
                each.info.url,
                sweep.prune(each, cache, root, _announced(form, each.info.url if several else "")),
            )
            for each in connected
        ]
    removed = [(ours, url) for url, each in swept for ours in each.removed]
    failed = [(ours, url, why) for url, each in swept for ours, why in each.failed]
    place = {url: f" on {url}" if len(swept) > 1 else "" for url, _ in swept}
    lines = [f"removed {ours.type} {ours.name or ours.id}{place[url]}" for ours, url in removed]
    lines += [
        f"could not remove {ours.type} {ours.name or ours.id}{place[url]}: {why}" for ours, url, why in failed
    ]
    answer = {
        "version": JSON_VERSION,
        "removed": [_plain(*each) for each in removed],
        "failed": [{**_plain(ours, url), "reason": why} for ours, url, why in failed],
    }
    _write(form, answer, lines or ["nothing to remove" + (f" of {root}" if root is not None else "")])
    return FAILED if any(ours.state != "cache" for ours, _, _ in failed) else FINE


def _project() -> str:
    """The project of the current folder, as labels have it. Without a configuration it is the folder itself."""
    file = find_config(Path.cwd())
    return label_text(str(file.parent if file is not None else Path.cwd()))


def _announced(form: str, url: str) -> Callable[[Sequence[OurObject]], None]:
    """Says how much of which project will be removed.

    Args:
        url: The engine's, where there are several.
    """

    def begins(found: Sequence[OurObject]) -> None:
        of_projects: dict[str, Counter[str]] = {}
        for ours in found:
            of_projects.setdefault(ours.project, Counter())[ours.type] += 1
        for project, counts in sorted(of_projects.items()):
            what = ", ".join(f"{count} {type_}{'s' if count > 1 else ''}" for type_, count in counts.items())
            whose = project or "no project in particular"
            _write(form, None, [f"removing of {whose}{f' on {url}' if url else ''}: {what}"])
        sys.stdout.flush()

    return begins if form == "text" else lambda _: None


@contextlib.contextmanager
def _engines(url: str | None) -> Iterator[list[Engine]]:
    """The engine a run in this folder would use; of a pool all that answer, with a line for each that does not."""
    file = find_config(Path.cwd()) if url is None else None
    names = (url,) if url is not None else load_settings(file).engines if file is not None else ("auto",)
    with contextlib.ExitStack() as stack:
        connected: list[Engine] = []
        for name in names:
            try:
                connected.append(stack.enter_context(contextlib.closing(select_engine((name,), os.environ))))
            except NoEngineError as error:
                if len(names) == 1:
                    raise
                sys.stderr.write(f"envpar: {'; '.join(error.detail) or error.message}\n")
        if not connected:
            raise NoEngineError(f"no engine of the pool answers; tried {len(names)}")
        yield connected


def _plain(ours: OurObject, engine: str) -> dict[str, Any]:
    return {
        "engine": engine,
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


def _table(found: Sequence[tuple[OurObject, str]], *, several: bool) -> list[str]:
    rows = [(*_COLUMNS, *(("ENGINE",) if several else ()))]
    for each, url in found:
        row = (
            each.type,
            each.name or each.id[:19],
            each.kind,
            each.state,
            each.stage or "-",
            each.project or "-",
        )
        rows.append((*row, url) if several else row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _write(form: str, answer: object, lines: Sequence[str]) -> None:
    if form == "json":
        sys.stdout.write(json.dumps(answer, indent=2, sort_keys=True) + "\n")
        return
    for line in lines:
        sys.stdout.write(line + "\n")
