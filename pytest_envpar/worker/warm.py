"""``--env-reuse``: a container that waits for the next run, and the proof that nothing has happened in it.

What waits has never been used: a run takes the container that an earlier one has started for it, and starts one for the
next. So nothing of a suite can get from one run to another. What is left to prove when it is taken is that nobody else
was there, and that it is what this run would start now.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pytest_envpar.containers import warm
from pytest_envpar.containers.labels import WARM
from pytest_envpar.containers.lifecycle import adopt, container_name
from pytest_envpar.drift import upper
from pytest_envpar.drift.changes import left_behind, own_changes
from pytest_envpar.engine.values.create import Mount
from pytest_envpar.errors import ConnectionLostError, EngineError
from pytest_envpar.worker import start
from pytest_envpar.worker.agent import wire
from pytest_envpar.worker.client import Client, Gone
from pytest_envpar.worker.paths import PathMap

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pytest_envpar.containers.lifecycle import RunningContainer
    from pytest_envpar.drift.changes import Changes
    from pytest_envpar.engine.api import Engine, Stream
    from pytest_envpar.engine.values.engine import Listed
    from pytest_envpar.worker.start import Ground, Site

_FORMAT = 1
_ANSWER_S = 20.0
"""It may have been started just now."""


class RefusedError(Exception):
    """A warm container cannot be used. ``container`` is ours and has to be removed."""

    def __init__(self, why: str, container: RunningContainer) -> None:
        super().__init__(why)
        self.container = container


def obstacle(ground: Ground) -> str | None:
    """Why no container of a stage can wait, if so."""
    plan, stage = ground.plan, ground.stage
    if stage.services:
        return "its services run for one run"
    if plan.mode == "copy":
        return "the project is copied into it as it is at the start"
    if plan.mode == "overlay" and not plan.native_overlay:
        return f"what is written over the project cannot be looked at on {ground.engine.info.kind}"
    if ground.image.info.volumes or any(":/" not in volume for volume in stage.volumes):
        return "it has volumes of its own, which cannot be compared"
    return None


def key(ground: Ground, environ: Mapping[str, str]) -> str:
    """Of all that decides what a container of the stage is: image, settings, what is brought in, the folder."""
    status = ground.plan.host_root.stat()
    parts = (
        _FORMAT,
        start.WATCHED_BOOT,
        ground.image.image_id,
        ground.stage,
        ground.mounts,
        ground.payload.site,
        ground.payload.first,
        ground.probe.python,
        ground.plan,
        (status.st_dev, status.st_ino),
        {name: environ[name] for name in ground.stage.pass_env if name in environ},
    )
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def take(ground: Ground, environ: Mapping[str, str], folder: Path) -> Site | None:
    """The container that waits for this run, if there is one.

    Args:
        environ: The host's environment, from which ``pass-env`` is taken.
        folder: Where locks are (host).

    Raises:
        RefusedError: There was one, and it is not as it has to be, or went away when it was claimed.
        EngineError: The engine failed.
        OSError: There is no lock to be had: its folder cannot be made, or somebody else holds it for too long.
    """
    found = warm.claim(ground.engine, ground.owner, ground.stage.name, key(ground, environ), folder)
    if found is None:
        return None
    listed, fits = found
    if not fits:
        raise RefusedError(
            "the image, a setting or the place of the project is another", _adopted(ground, listed)
        )
    try:
        return _entered(ground, listed)
    except ConnectionLostError:
        raise
    except EngineError as error:  # whoever removed it, or what is wrong with it: a new one does
        raise RefusedError(error.message, _adopted(ground, listed)) from error


def _entered(ground: Ground, listed: Listed) -> Site:
    engine = ground.engine
    info = engine.inspect_container(listed.id)
    if info.status != "running":
        raise RefusedError(f"it is {info.status or 'not running'}", _adopted(ground, listed))
    if info.image_id != ground.image.image_id:
        raise RefusedError("its image is another", _adopted(ground, listed))
    stream = engine.attach(listed.id)
    container = _adopted(ground, listed, stream, info.mounts)
    client = Client(stream)
    client.send(wire.Look())
    changed = _answer(client)
    if changed:
        raise RefusedError(f"something has happened in it: {', '.join(changed)}", container)
    found = _changes(engine, listed.id, (ground.plan.container_root, *container.mount_points()))
    if found.items or found.noise:
        first = [str(change.path) for change in (*found.items, *found.noise)][:3]
        raise RefusedError(f"its files have changed: {', '.join(first)}", container)
    return start.Site(ground, container, client, PathMap(ground.plan.host_root, ground.plan.container_root))


def _changes(engine: Engine, container: str, hidden: tuple[PurePosixPath, ...]) -> Changes:
    """What differs from the image. Where the container's own layer shows nothing, nothing has to be compared."""
    folders = engine.layer_folders(container)
    if folders is not None:
        with contextlib.suppress(upper.UnreadableError):
            found = own_changes(upper.scan(folders.upper, folders.lower), hidden)
            if not found.items and not found.noise:
                return found
    return left_behind(engine, container, hidden=hidden)


def _answer(client: Client) -> list[str]:
    """What the supervisor has seen."""
    deadline = time.monotonic() + _ANSWER_S
    while (rest := deadline - time.monotonic()) > 0:
        message = client.receive(rest)
        if isinstance(message, wire.Seen):
            return [str(each)[:200] for each in message.facts.get("changed", ["nothing is known of it"])][:3]
        if isinstance(message, Gone):
            return ["its process has ended"]
        if message is not None:
            return ["its process has said something"]
    return ["its process does not answer"]


def _adopted(
    ground: Ground, listed: Listed, stream: Stream | None = None, mounts: Iterable[str] = ()
) -> RunningContainer:
    return adopt(
        ground.engine,
        listed.id,
        warm.taken_name(ground.owner),
        warm.volumes(listed.labels[WARM]),
        stream,
        tuple(Mount("volume", None, PurePosixPath(path)) for path in mounts),
    )


def leave(ground: Ground, environ: Mapping[str, str], folder: Path) -> None:
    """Start a container that waits for the next run, unless one does already.

    Raises:
        EngineError: The engine failed; nothing is left.
        OSError: There is no lock to be had; nothing is left either.
    """
    base = container_name(ground.owner, ground.stage.name)
    with start.start_watched(ground, environ, base) as container:
        name = ground.stage.name
        if warm.park(ground.engine, ground.owner, name, key(ground, environ), container.id, folder):
            container.release()
