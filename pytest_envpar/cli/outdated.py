"""``envpar outdated``: what is locked beside what the registries serve today."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from typing import TYPE_CHECKING

from pytest_envpar.cli import FAILED, FINE, status_of
from pytest_envpar.cli.lock import JSON_VERSION, by_name, project
from pytest_envpar.errors import EnvparError, NotYetError
from pytest_envpar.images import locking
from pytest_envpar.images.lockfile import LOCAL, Lock, read

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Row:
    """One image of a stage beside what its registry serves today. Digests; ``state`` is one word."""

    stage: str
    image: str
    locked: str | None
    newest: str | None
    state: str
    error: tuple[str, ...] = ()


def outdated(form: str) -> int:
    """Compare what is locked with what the registries serve today; returns the exit code: 1 if anything is newer.

    Of a build it is the bases that may be newer. What no registry gave is ``local``, what the configuration names by
    digest ``pinned``; neither is asked for.
    """
    settings = project()
    held = read(locking.lock_path(settings)) or Lock()
    status = FINE
    rows: list[Row] = []
    for stage in by_name(settings):
        entry = held.stages.get(stage.name)
        if entry is None:
            rows.append(Row(stage.name, stage.image or "(build)", None, None, "unlocked"))
            continue
        images = entry.base.items() if entry.build is not None else [(entry.reference or "", entry.digest)]
        for image, locked in images:
            try:
                rows.append(_compared(stage.name, image, locked))
            except EnvparError as error:
                rows.append(Row(stage.name, image, locked, None, "failed", tuple(error.lines())))
                status = max(status, status_of(error))
    if status == FINE and any(row.state in ("outdated", "unlocked") for row in rows):
        status = FAILED
    if form == "json":
        answer = {
            "version": JSON_VERSION,
            "file": str(locking.lock_path(settings)),
            "images": [dataclasses.asdict(row) for row in rows],
        }
        sys.stdout.write(json.dumps(answer, indent=2, sort_keys=True) + "\n")
        return status
    shown = [(row.stage, row.image, _digest(row.locked), _digest(row.newest), row.state) for row in rows]
    for line in _table([("STAGE", "IMAGE", "LOCKED", "NEWEST", "STATE"), *shown]):
        sys.stdout.write(line + "\n")
    for row in rows:
        sys.stdout.write("".join(f"{row.stage}: {line}\n" for line in row.error))
    for name in dict.fromkeys(row.stage for row in rows if row.state == "outdated"):
        sys.stdout.write(f"take it with: envpar upgrade {name}\n")
    return status


def _compared(stage: str, image: str, locked: str | None) -> Row:
    if locked is None or locked.startswith(LOCAL):
        return Row(stage, image, locked, None, "local")
    if "@" in image:
        return Row(stage, image, locked, None, "pinned")
    newest = _newest(image)
    return Row(stage, image, locked, newest, "current" if newest == locked else "outdated")


def _newest(image: str) -> str:
    """The digest that the image's registry serves under its tag today."""
    try:
        registry = importlib.import_module("pytest_envpar.images.registry")
    except ModuleNotFoundError:
        raise NotYetError(
            "outdated: to ask a registry is not yet part of this version",
            hint="envpar upgrade STAGE pulls what the tag means today",
        ) from None
    return str(registry.remote_digest(image))


def _digest(text: str | None) -> str:
    return "-" if text is None else text.removeprefix(LOCAL)[: len("sha256:") + 12]


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
