"""Warm containers: started by one run, in which nothing has happened yet, for the next run to use.

Engines let no label be changed, so the name says what a warm container is: one that is being made has a name of its
run, one that waits is ``envpar-warm-STAGE-KEY-RUN``, one that was claimed is ``envpar-taken-PID-START-RUN``, by the
process that uses it now. So whoever lists it knows whether that is alive, and what was claimed once is never claimed
again, however its user ended. Claims are made under a file lock of the user, which goes with the process that holds it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import TYPE_CHECKING

from pytest_envpar.containers.labels import PROJECT, STAGE, USER, WARM, Owner
from pytest_envpar.images.tags import slug

if TYPE_CHECKING:
    from pathlib import Path

    import filelock

    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.engine import Listed

PARKED = "envpar-warm-"
TAKEN = "envpar-taken-"

_LOCK_S = 30.0


def parked_name(owner: Owner, stage: str, key: str) -> str:
    """The name of a container that waits.

    Args:
        key: Of all that has to be the same for a run to use it.
    """
    return f"{PARKED}{slug(stage, fallback='stage')}-{key}-{owner.run}"


def taken_name(owner: Owner) -> str:
    """The name of a container that ``owner`` uses."""
    return f"{TAKEN}{owner.pid}-{owner.pid_start}-{owner.run}"


def user_of(name: str, maker: Owner | None) -> Owner | None:
    """Who uses the warm container of this name: who made it, as long as nobody has claimed it."""
    found = re.fullmatch(rf"{TAKEN}(\d+)-(\d+)-(\w+)", name)
    if found is None or maker is None:
        return maker
    return dataclasses.replace(maker, pid=int(found[1]), pid_start=int(found[2]), run=found[3])


def claim(engine: Engine, owner: Owner, stage: str, key: str, folder: Path) -> tuple[Listed, bool] | None:
    """Take the container that waits for runs of ``stage``; nobody else gets it from now on.

    Args:
        folder: Where locks are (host).

    Returns:
        The container, called :func:`taken_name` now, and whether it is of this key; ``None`` if there is none.

    Raises:
        EngineError: The engine failed, or the container went away meanwhile.
        OSError: There is no lock to be had: its folder cannot be made, or somebody else holds it for too long.
    """
    with _lock(engine, owner, stage, folder):
        waiting = _waiting(engine, owner, stage)
        if not waiting:
            return None
        found = next((each for each in waiting if _has(each, key)), waiting[0])
        engine.rename(found.id, taken_name(owner))
    return found, _has(found, key)


def park(engine: Engine, owner: Owner, stage: str, key: str, container: str, folder: Path) -> bool:
    """Let a container wait for the next run; False if there is one already.

    Raises:
        EngineError: The engine failed.
        OSError: There is no lock to be had, as above.
    """
    with _lock(engine, owner, stage, folder):
        waiting = _waiting(engine, owner, stage)
        if any(_has(each, key) for each in waiting):
            return False
        engine.rename(container, parked_name(owner, stage, key))
        for other in waiting:  # of other settings: no run will use it
            remove(engine, other)
    return True


def remove(engine: Engine, warm: Listed) -> None:
    """Remove a warm container and its volumes. Raises EngineError if the engine failed."""
    engine.remove_container(warm.id)
    for volume in volumes(warm.labels[WARM]):
        engine.remove_volume(volume)


def volumes(base: str) -> list[str]:
    """The names of volumes that a warm container may have, in the order in which they can be removed.

    Args:
        base: The value of its label.
    """
    return [f"{base}-{part}" for part in ("source", "work", "upper")]


def _waiting(engine: Engine, owner: Owner, stage: str) -> list[Listed]:
    labels = {WARM: "", PROJECT: owner.project, STAGE: stage, USER: str(owner.uid)}
    # Of another machine, or of another container of this one, nothing is known but by name.
    return [
        each
        for each in engine.list_containers(labels)
        if each.name.startswith(PARKED)
        and (maker := Owner.parse(each.labels)) is not None
        and (maker.host, maker.pid_namespace) == (owner.host, owner.pid_namespace)
    ]


def _has(warm: Listed, key: str) -> bool:
    return f"-{key}-" in warm.name


def _lock(engine: Engine, owner: Owner, stage: str, folder: Path) -> filelock.BaseFileLock:
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    place = "\0".join((engine.info.id or engine.info.url, owner.project, stage, str(owner.uid)))
    name = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return filelock.FileLock(folder / f"{name}.lock", timeout=_LOCK_S)
