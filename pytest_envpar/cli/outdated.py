"""``envpar outdated``: what is locked beside what the registries serve today."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from typing import TYPE_CHECKING

from pytest_envpar.cli import FAILED, FINE, status_of
from pytest_envpar.cli.lock import JSON_VERSION, by_name, project
from pytest_envpar.errors import EnvparError, NoEngineError
from pytest_envpar.images import locking
from pytest_envpar.images.lockfile import LOCAL, Lock, read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_envpar.config.model import Settings
    from pytest_envpar.engine.api import Engine


@dataclasses.dataclass(frozen=True)
class Row:
    """One image of a stage or of its services beside what its registry serves today. Digests; ``state`` is one word."""

    stage: str
    image: str
    locked: str | None
    newest: str | None
    state: str
    error: tuple[str, ...] = ()


def outdated(form: str) -> int:
    """Compare what is locked with what the registries serve today; returns the exit code: 1 if anything is newer.

    Of a build, and below ``setup`` steps, it is the bases that may be newer; the images of services are asked for as
    well. What no registry gave is ``local``, what
    the configuration names by digest ``pinned``; neither is asked for.
    """
    settings = project()
    held = read(locking.lock_path(settings)) or Lock()
    status = FINE
    rows: list[Row] = []
    asked: list[tuple[str, str, str | None]] = []
    for stage in by_name(settings):
        entry = held.stages.get(stage.name)
        if entry is None:
            rows.append(Row(stage.name, stage.image or "(build)", None, None, "unlocked"))
            continue
        own = [(entry.reference or "", entry.digest)]
        images = entry.base.items() if entry.build is not None or entry.setup is not None else own
        asked += [(stage.name, image, locked) for image, locked in (*images, *entry.services.items())]
    with contextlib.closing(Registries(settings)) as registries:
        for name, image, locked in asked:
            try:
                rows.append(_compared(registries, name, image, locked))
            except EnvparError as error:
                rows.append(Row(name, image, locked, None, "failed", tuple(error.lines())))
                status = max(status, status_of(error))
    rows.sort(key=lambda row: row.stage)
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


class Registries:
    """Asks registries, through the configured engine where one answers: it may know certificates that this machine does
    not. Owns the connection to it.

    Args:
        settings: The configuration.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._looked = False

    def newest(self, image: str) -> str:
        """The digest that the image's registry serves under its tag today. Raises EnvparError."""
        from pytest_envpar.engine.select import select_engine
        from pytest_envpar.images.registry import remote_digest

        if not self._looked:
            self._looked = True
            # No engine is needed for this.
            with contextlib.suppress(NoEngineError):
                self._engine = select_engine(self._settings.engines, os.environ)
        return remote_digest(self._engine, image).digest

    def close(self) -> None:
        """Let go of the engine."""
        if self._engine is not None:
            self._engine.close()


def _compared(registries: Registries, stage: str, image: str, locked: str | None) -> Row:
    if locked is None or locked.startswith(LOCAL):
        return Row(stage, image, locked, None, "local")
    if "@" in image:
        return Row(stage, image, locked, None, "pinned")
    newest = registries.newest(image)
    return Row(stage, image, locked, newest, "current" if newest == locked else "outdated")


def _digest(text: str | None) -> str:
    return "-" if text is None else text.removeprefix(LOCAL)[: len("sha256:") + 12]


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
