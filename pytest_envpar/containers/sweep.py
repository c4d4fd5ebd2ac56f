"""Our objects on an engine: listing them, and removing what dead runs left."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Literal

from pytest_envpar.containers.labels import (
    BYTECODE,
    CACHE,
    KIND,
    PROJECT,
    RUN,
    STAGE,
    WARM,
    Owner,
    is_dead,
    is_gone,
)
from pytest_envpar.containers.lifecycle import KEPT, run_name
from pytest_envpar.containers.warm import PARKED, user_of, volumes
from pytest_envpar.errors import ConnectionLostError, EngineError, NotFoundError
from pytest_envpar.images.tags import COPIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_envpar.engine.api import Engine
    from pytest_envpar.engine.values.engine import Listed

State = Literal["live", "dead", "kept", "cache"]
ObjectType = Literal["container", "volume", "network", "image"]


@dataclasses.dataclass(frozen=True)
class OurObject:
    """A labelled object on an engine.

    Args:
        type: What the engine calls it.
        kind: What it is for (``run``, ``probe``, ``cache``, …).
        owner: Who made it; ``None`` for caches and incomplete labels.
        state: ``live`` (its run may still need it), ``dead``, ``kept`` (by ``--env-keep``: a container and its volumes,
            and the network of its stage, which no run removes, and ``envpar prune`` does) or ``cache``.
        status: The engine's word for a container's state, else empty.
    """

    type: ObjectType
    id: str
    name: str
    kind: str
    project: str
    stage: str
    run: str
    owner: Owner | None
    state: State
    status: str


@dataclasses.dataclass(frozen=True)
class Swept:
    """What was removed, and what was ours to remove and could not be (with the engine's words)."""

    removed: tuple[OurObject, ...] = ()
    failed: tuple[tuple[OurObject, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.removed or self.failed)


def list_ours(engine: Engine) -> tuple[OurObject, ...]:
    """All labelled objects on the engine, in the order in which they can be removed."""
    listings: tuple[tuple[ObjectType, tuple[Listed, ...]], ...] = (
        ("container", engine.list_containers({KIND: ""})),
        ("network", _networks(engine)),
        ("volume", engine.list_volumes({KIND: ""})),
        ("image", (*engine.list_images({KIND: ""}), *_copies(engine))),
    )
    dead: dict[Owner, bool] = {}
    ours: list[OurObject] = []
    warm: dict[str, str] = {}
    for type_, listed in listings:
        ours += (_ours(type_, each, dead) for each in sorted(listed, key=_removal_order))
        warm |= {each.id: each.labels[WARM] for each in listed if WARM in each.labels}
    kept = [each for each in ours if each.name.startswith(KEPT)]
    # A volume of its project is named after the container as it was called before.
    names = {run_name(each.name) for each in kept}
    stages = {(each.run, each.stage) for each in kept}

    def stays(each: OurObject) -> bool:
        if each.state != "dead":
            return False
        if each.type == "volume":
            return each.name.rpartition("-")[0] in names
        return each.name.startswith(KEPT) or (each.type == "network" and (each.run, each.stage) in stages)

    ours = [dataclasses.replace(each, state="kept") if stays(each) else each for each in ours]
    # The volumes of a warm container are what it is, whoever has made them.
    states = {warm[each.id]: each.state for each in ours if each.type == "container" and each.id in warm}
    return tuple(
        dataclasses.replace(each, state=states.get(warm[each.id], each.state))
        if each.type == "volume" and each.id in warm
        else each
        for each in ours
    )


def _networks(engine: Engine) -> tuple[Listed, ...]:
    try:
        return engine.list_networks({KIND: ""})
    except ConnectionLostError:
        raise
    except EngineError:
        # Podman cannot list networks where no network plugin is installed; it cannot have made one either.
        return ()


def _copies(engine: Engine) -> tuple[Listed, ...]:
    """Images from other engines of a pool, with the labels that they cannot have."""
    found = engine.list_tagged(COPIES)
    return tuple(dataclasses.replace(each, labels={KIND: CACHE}) for each in found)


def _removal_order(listed: Listed) -> tuple[bool, str]:
    # An overlay volume goes before the two that it is mounted over.
    return (not listed.name.endswith("-source"), listed.name)


def _ours(type_: ObjectType, listed: Listed, dead: dict[Owner, bool]) -> OurObject:
    labels = listed.labels
    kind = labels.get(KIND, "")
    owner = Owner.parse(labels)
    state: State = "live"
    if WARM in labels:
        kind, owner = "warm", user_of(listed.name, owner)
    if listed.name.startswith((PARKED, BYTECODE)):
        state = "dead" if owner is not None and is_gone(owner) else "cache"
    elif kind == CACHE:
        state = "cache"
    elif owner is not None:
        if owner not in dead:
            dead[owner] = is_dead(owner)
        state = "dead" if dead[owner] else "live"
    return OurObject(
        type=type_,
        id=listed.id,
        name=listed.name,
        kind=kind,
        project=labels.get(PROJECT, ""),
        stage=labels.get(STAGE, ""),
        run=owner.run if owner is not None else labels.get(RUN, ""),
        owner=owner,
        state=state,
        status=listed.status,
    )


def sweep(engine: Engine, *, everything_dead: bool = True) -> Swept:
    """Remove what dead runs left. Live runs, other hosts and caches of projects that are there are never touched.

    Args:
        everything_dead: Also what dead runs of other users left; else only this user's.
    """
    uid = os.getuid()

    def wanted(ours: OurObject) -> bool:
        return ours.state == "dead" and (
            everything_dead or (ours.owner is not None and ours.owner.uid == uid)
        )

    return _remove(engine, wanted)


def prune(
    engine: Engine,
    cache: bool = False,
    project: str | None = None,
    begins: Callable[[Sequence[OurObject]], object] = lambda _: None,
) -> Swept:
    """What ``envpar prune`` removes: what dead runs left or kept and, if asked, caches that no container uses.

    Args:
        cache: Caches, too.
        project: Only what belongs to the project with this root (host path); of all projects by default.
        begins: Is told what will be removed, before anything is.
    """

    def wanted(ours: OurObject) -> bool:
        if project is not None and ours.project != project:
            return False
        return ours.state in ("dead", "kept") or (cache and ours.state == "cache")

    return _remove(engine, wanted, begins)


def _remove(
    engine: Engine,
    wanted: Callable[[OurObject], bool],
    begins: Callable[[Sequence[OurObject]], object] = lambda _: None,
) -> Swept:
    removed: list[OurObject] = []
    failed: list[tuple[OurObject, str]] = []
    found = [ours for ours in list_ours(engine) if wanted(ours)]
    begins(found)
    in_use: set[str] = set()
    for ours in found:
        if ours.type == "volume" and ours.name in in_use:
            continue
        refusal = _refusal(engine, ours)
        if refusal is None and _is_warm(ours) and (used := _claimed(engine, ours)):
            in_use.update(used)
        elif refusal is None:
            removed.append(ours)
        else:
            failed.append((ours, refusal))
    return Swept(tuple(removed), tuple(failed))


def _refusal(engine: Engine, ours: OurObject) -> str | None:
    """Remove one object; what the engine said if it would not."""
    try:
        _remove_one(engine, ours)
    except NotFoundError:
        return None  # another process swept it first
    except ConnectionLostError:
        raise
    except EngineError as error:
        # In use: a cache under a live container, or something that another process removes right now.
        return error.message
    return None


def _is_warm(ours: OurObject) -> bool:
    return ours.type == "container" and ours.kind == "warm"


def _claimed(engine: Engine, warm: OurObject) -> list[str]:
    """The volumes of a container that is not called so any more, as a run has claimed it; none if it is gone."""
    try:
        info = engine.inspect_container(warm.id)
    except ConnectionLostError:
        raise
    except EngineError:
        return []
    return volumes(info.labels[WARM]) if info.name != warm.name else []


def _remove_one(engine: Engine, ours: OurObject) -> None:
    if _is_warm(ours):
        # Whoever claims it gives it another name: by this one it is removed only as long as nobody has.
        engine.remove_container(ours.name)
    elif ours.type == "container":
        engine.remove_container(ours.id)
    elif ours.type == "volume":
        engine.remove_volume(ours.name)
    elif ours.type == "network":
        engine.remove_network(ours.id)
    else:
        engine.remove_image(ours.name or ours.id)
