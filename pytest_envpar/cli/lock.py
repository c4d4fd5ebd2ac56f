"""``envpar lock``, ``lock --check`` and ``upgrade``: the lock file without a run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_envpar.cli import FAILED, FINE, status_of
from pytest_envpar.config import check_stage, find_config, get_stage, load_settings
from pytest_envpar.errors import ConfigError, ConnectionLostError, EnvparError
from pytest_envpar.images import lockentry, locking
from pytest_envpar.images.lockfile import BrokenLockError, Lock, read

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_envpar.config.model import Settings, Stage
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.bars import Teller
    from pytest_envpar.images.lockfile import Entry
    from pytest_envpar.images.locking import Locked

JSON_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Line:
    """What is said of one stage. ``state`` is one word for programs, ``text`` the rest of the line for people."""

    stage: str
    state: str
    text: str
    more: tuple[str, ...] = ()
    entry: Entry | None = None

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        told: dict[str, Any] = {
            "stage": self.stage,
            "state": self.state,
            "text": self.text,
            "more": list(self.more),
        }
        if self.entry is not None:
            told |= {
                "reference": self.entry.reference,
                "build": self.entry.build,
                "digest": self.entry.digest,
                "image_id": self.entry.image_id,
                "platform": self.entry.platform,
            }
        return told


def lock(form: str, *, engine: str | None) -> int:
    """Lock every stage that is not locked as configured; returns the exit code."""
    settings = project()
    path = locking.lock_path(settings)
    said: list[str] = []
    anew = False
    try:
        held = read(path) or Lock()
    except BrokenLockError as error:
        said.append(f"{error.message}: written anew")
        held, anew = Lock(), True
    found: list[Line] = []
    status = FINE
    with contextlib.closing(_engine(settings, engine)) as connected:
        for stage in by_name(settings):
            try:
                locked = _resolved(connected, settings, stage, "local", held)
                locking.settle(locked, anew=anew)
                anew = False
                found.append(_line(locked))
            except ConnectionLostError:
                raise
            except EnvparError as error:
                found.append(_failed(stage, error))
                status = max(status, status_of(error))
    gone = sorted(set(held.stages) - set(settings.stages))
    if gone:
        locking.record(path, dict.fromkeys(gone))
        found += [Line(name, "removed", "removed: there is no such stage any more") for name in gone]
    _write(form, settings, found, said)
    return status


def check(form: str) -> int:
    """Say which stages are not locked as configured; writes nothing and asks no engine. Returns the exit code."""
    settings = project()
    path = locking.lock_path(settings)
    held = read(path) or Lock()
    found = []
    for stage in by_name(settings):
        entry = held.stages.get(stage.name)
        if entry is None:
            found.append(Line(stage.name, "missing", "not locked"))
            continue
        check_stage(stage)
        why = lockentry.edits_of(entry, stage, settings.root)
        why = why or lockentry.input_changes_of(
            entry, stage, settings.root, locking.written_by_runs(settings)
        )
        if why:
            found.append(Line(stage.name, "stale", "; ".join(why), entry=entry))
        else:
            found.append(Line(stage.name, "fine", "locked as configured", entry=entry))
    found += [
        Line(name, "unused", "locked, and there is no such stage", entry=held.stages[name])
        for name in sorted(set(held.stages) - set(settings.stages))
    ]
    fine = all(line.state == "fine" for line in found)
    _write(form, settings, found, [] if fine else ["mend it with: envpar lock"], last=True)
    return FINE if fine else FAILED


def upgrade(form: str, name: str, *, engine: str | None) -> int:
    """Lock one stage to what its tag or its Dockerfile gives today; returns the exit code."""
    settings = project()
    stage = get_stage(settings, name)
    held = read(locking.lock_path(settings)) or Lock()
    with contextlib.closing(_engine(settings, engine)) as connected:
        check_stage(stage)
        locking.fetch(connected, stage, _teller())
        locked = _resolved(connected, settings, stage, "update", held)
        locking.settle(locked)
    _write(form, settings, [_line(locked)], [])
    return FINE


def project() -> Settings:
    """The configuration of the project in whose folder the command was started."""
    file = find_config(Path.cwd())
    if file is None:
        raise ConfigError(
            f"no stages are configured: neither envpar.toml nor [tool.envpar] in pyproject.toml was found in "
            f"{Path.cwd()} or above",
            hint="`envpar init` writes a first configuration",
        )
    return load_settings(file)


def by_name(settings: Settings) -> list[Stage]:
    """The stages in the order in which they are told."""
    return [settings.stages[name] for name in sorted(settings.stages)]


def _engine(settings: Settings, url: str | None) -> Engine:
    from pytest_envpar.engine.select import select_engine

    return select_engine((url,) if url else settings.engines, os.environ)


def _resolved(engine: Engine, settings: Settings, stage: Stage, mode: locking.Mode, held: Lock) -> Locked:
    from pytest_envpar.containers.labels import Owner
    from pytest_envpar.session.baselines import fingerprinted
    from pytest_envpar.userfiles import cache_dir
    from pytest_envpar.worker.setup import Setup

    check_stage(stage)
    owner, teller = Owner.current(settings.root), _teller()
    locked = locking.resolve_stage(
        engine,
        stage,
        settings,
        mode,
        progress=teller,
        owner_labels=owner.labels("cache", stage.name),
        lock=held,
        setup=Setup(engine, settings, owner, cache_dir(), os.environ, teller),
    )
    return fingerprinted(locked, engine, settings.root)


def _line(locked: Locked) -> Line:
    name, image, more = locked.stage.name, locked.image.short(), (*locked.told, *locked.remarks)
    if not locked.pending:
        return Line(name, "unchanged", f"unchanged, {image}", more, locked.entry)
    if locked.old is None:
        return Line(name, "locked", f"locked to {image}", more, locked.entry)
    why = "; ".join(locked.why) or lockentry.difference(locked.old, locked.entry)
    return Line(name, "changed", f"locked anew: {why}; now {image}", more, locked.entry)


def _failed(stage: Stage, error: EnvparError) -> Line:
    first, *more = error.lines()
    return Line(stage.name, "failed", first, tuple(more))


def _write(
    form: str, settings: Settings, found: Sequence[Line], said: Sequence[str], *, last: bool = False
) -> None:
    path = locking.lock_path(settings)
    if form == "json":
        answer: Mapping[str, Any] = {
            "version": JSON_VERSION,
            "file": str(path),
            "messages": list(said),
            "stages": [line.plain() for line in found],
        }
        sys.stdout.write(json.dumps(answer, indent=2, sort_keys=True) + "\n")
        return
    lines = [f"{line.stage}: {line.text}\n" + "".join(f"  {each}\n" for each in line.more) for line in found]
    told = [f"{each}\n" for each in said]
    for text in [*lines, *told] if last else [*told, *lines]:
        sys.stdout.write(text)


def _teller() -> Teller:
    from pytest_envpar.engine.bars import Teller

    return Teller()
