"""From settings to a running agent: engine, image, probe, payload, source, container, stream."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.containers.labels import CACHE, KIND, WARM
from pytest_envpar.containers.lifecycle import RunningContainer, start_container
from pytest_envpar.containers.source import SourcePlan, plan_source
from pytest_envpar.errors import EngineError, NotFoundError
from pytest_envpar.images.locking import Locked, Mode, resolve_stage
from pytest_envpar.worker import bytecode
from pytest_envpar.worker.agent import wire
from pytest_envpar.worker.client import Client, Gone
from pytest_envpar.worker.paths import PathMap
from pytest_envpar.worker.payload import ROOT, Payload, ensure
from pytest_envpar.worker.probe import Probe, path_facts, probe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pytest_envpar.config.model import Settings, Stage
    from pytest_envpar.containers.labels import Owner
    from pytest_envpar.containers.readiness import Vantage
    from pytest_envpar.containers.services import Services
    from pytest_envpar.drift.changes import Changes
    from pytest_envpar.drift.produce import Store
    from pytest_envpar.engine.api import Engine, Progress
    from pytest_envpar.engine.values.containers import ContainerInfo
    from pytest_envpar.engine.values.create import Mount
    from pytest_envpar.images.pinned import PinnedImage
    from pytest_envpar.worker.tracer import Tracer

SCRATCH = "/.envpar/tmp"
"""A tmpfs of ours inside: pytest's cache directory, and what coverage.py writes."""

_TMPFS = {SCRATCH: "rw,mode=1777,size=512m"}
_REMOVALS = ("removing", "dead")
_END_S = 2.0
_REMOVAL_S = 4.0
_KILLED = 137

_BOOT = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from _envpar_agent.supervisor import main; main(sys.argv[1:])"


WATCHED_BOOT = f"import sys; sys.dont_write_bytecode = True; {_BOOT}"
"""For a container that may wait: nothing is written to it before it is used."""


@dataclasses.dataclass(frozen=True)
class Ground:
    """Everything that containers of one stage have in common in one run."""

    engine: Engine
    stage: Stage
    image: PinnedImage
    probe: Probe
    payload: Payload
    plan: SourcePlan
    owner: Owner
    locked: Locked
    bytecode: Mount | None = None
    tracer: Tracer | None = None

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """What is ours in each of them."""
        measured = self.tracer.mount if self.tracer is not None else None
        return tuple(mount for mount in (self.payload.mount, self.bytecode, measured) if mount is not None)


@dataclasses.dataclass
class Site:
    """A running container with an agent in it; owns both."""

    ground: Ground
    container: RunningContainer
    client: Client
    paths: PathMap

    def vantage(self) -> Vantage:
        """The container as a place to ask its services from."""
        from pytest_envpar.containers.readiness import Vantage

        return Vantage(self.ground.engine, self.container.id, str(self.ground.probe.python))

    def autopsy(self) -> str | None:
        """Why the container is gone, as far as the engine can tell."""
        try:
            state = self._settled()
        except NotFoundError:
            state = None
        except EngineError as error:
            return f"the engine does not answer: {error.message}"
        if state is None or state.status in _REMOVALS:
            return "the container was removed from outside"
        limit = self.ground.stage.memory_bytes
        if state.oom_killed:
            return f"killed: memory limit {limit} bytes" if limit else "killed: out of memory"
        if state.running:
            return "the connection to the container was lost"
        code = state.exit_code
        if code is None:
            return "the container ended, and the engine does not say how"
        if code and code > 128:
            return f"the container was killed from outside (exit code {code}, signal {code - 128})"
        if code == 0:
            # Its main process is ours, and leaves when nobody is at the other end any more.
            return "the connection to the container was lost, and it ended"
        return f"the container ended with exit code {code}" + (f": {state.error}" if state.error else "")

    def _settled(self) -> ContainerInfo | None:
        """The state once it is the last; None if the container was removed."""
        engine = self.ground.engine
        state = self.container.inspect()
        if state.running:
            # The stream was faster than the engine.
            with contextlib.suppress(TimeoutError):
                engine.wait(self.container.id, timeout_s=_END_S)
            state = self.container.inspect()
        if engine.info.kind == "podman" and not state.oom_killed and state.exit_code in (None, _KILLED):
            # A removal kills first, and until it is over Podman does not say what it is about, as Docker does.
            try:
                engine.wait_removed(self.container.id, timeout_s=_REMOVAL_S)
            except TimeoutError:
                return self.container.inspect()
            return None
        return state

    def left_behind(self, store: Callable[[], AbstractContextManager[Store]] | None = None) -> Changes | None:
        """What the suite left in the container's file system; None if the engine cannot tell any more.

        Args:
            store: Opens what is known of images, if that is needed.
        """
        from pytest_envpar.drift.changes import left_behind

        try:
            return left_behind(
                self.ground.engine,
                self.container.id,
                hidden=(self.paths.container, *self.container.mount_points()),
                store=store,
            )
        except EngineError:
            return None

    def keep(self) -> None:
        """Let the container stay: it goes on, under a name that says so, and nothing runs in it for us but what waits.

        Raises:
            EngineError: It is not there any more, or the engine failed; it is still owned then.
        """
        if self.container.inspect().status in _REMOVALS:
            # Docker fails to remove what is renamed meanwhile.
            raise NotFoundError("it is being removed from outside")
        self.client.send(wire.Stay())
        deadline = time.monotonic() + _END_S
        # What the supervisor has not read when the stream ends might be lost.
        while (rest := deadline - time.monotonic()) > 0:
            if isinstance(self.client.receive(rest), (wire.Seen, Gone)):
                break
        self.container.keep()

    def close(self) -> None:
        """End the conversation and remove the container and all that belongs to it."""
        self.client.close()
        self.container.remove()


def prepare(
    engine: Engine,
    settings: Settings,
    stage: Stage,
    owner: Owner,
    cache_dir: Path,
    progress: Progress | None = None,
    mode: Mode = "local",
    environ: Mapping[str, str] = MappingProxyType({}),
    home: Engine | None = None,
) -> Ground:
    """Resolve everything that a container of ``stage`` needs; nothing is started yet.

    Args:
        cache_dir: Where probes, stamps and payloads are cached (host).
        progress: Told lines of pulls, builds and first-time work.
        mode: How strictly the lock file binds. It is not written to: see ``Ground.locked``.
        environ: The host's environment, from which ``setup`` steps are given what ``pass-env`` names.
        home: In a pool of engines the one that says what the stage is, and has its images.

    Raises:
        UsageError: The image, its Python or the source cannot be had, or the lock file refuses the stage.
        EngineError: The engine failed.
    """
    decides = engine if home is None else home
    setup = None
    if stage.setup:
        # What only some stages need is imported for them alone: the container waits for it.
        from pytest_envpar.worker.setup import Setup

        setup = Setup(decides, settings, owner, cache_dir, environ, progress)
    locked = resolve_stage(
        decides,
        stage,
        settings,
        mode,
        progress=progress,
        owner_labels=owner.labels("cache", stage.name),
        setup=setup,
    )
    if decides is not engine:
        from pytest_envpar.images.spread import bring_all

        locked = bring_all(locked, decides, engine, progress)
    image = locked.image
    found = probe(engine, image.info, stage, settings.root, cache_dir, owner=owner)
    payload = ensure(engine, image.info, found, settings.agent, cache_dir, progress, stage=stage, owner=owner)
    plan = plan_source(engine.info, path_facts(found), settings.source, settings.root, workdir=stage.workdir)
    kept = bytecode.mount(engine, image.info, found, plan, owner, cache_dir)
    measured = None
    if settings.coverage:
        from pytest_envpar.worker import tracer

        measured = tracer.ensure(engine, image.info, found, stage, owner, cache_dir, progress)
    return Ground(engine, stage, image, found, payload, plan, owner, locked, kept, measured)


def start_services(ground: Ground) -> Services | None:
    """Begin to start the services of the stage; ``None`` if it has none. Who gets them closes them.

    Raises:
        ServiceError: What is configured does not go together.
        EngineError: The engine failed.
    """
    if not ground.stage.services:
        return None
    from pytest_envpar.containers.services import Services

    services = Services(ground.engine, ground.stage, ground.locked.services, ground.owner)
    services.start()
    return services


def start(
    ground: Ground,
    environ: Mapping[str, str],
    on_start: Callable[[], None] | None = None,
    services: Services | None = None,
    *,
    terminal: bool = False,
) -> Site:
    """Start one container and its agent.

    Args:
        environ: The host's environment, from which ``pass-env`` is taken.
        on_start: Called once the container runs.
        services: Whose network the container joins, and which the suite is told of.
        terminal: The worker will be asked to have a terminal, which takes a moment less if that is known now.

    Raises:
        StageError: A key of the stage makes the container impossible.
        EngineError: The engine failed.
    """
    container = start_container(
        ground.engine,
        ground.image,
        ground.stage,
        owner=ground.owner,
        command=(*_command(ground, _BOOT), *(("terminal",) if terminal else ())),
        source_plan=ground.plan,
        mounts=ground.mounts,
        env={**({} if services is None else services.env), **_passed(ground, environ)},
        tmpfs=_TMPFS,
        network=None if services is None else services.network,
    )
    if on_start is not None:
        on_start()
    return Site(
        ground,
        container,
        Client(container.stream),
        PathMap(ground.plan.host_root, ground.plan.container_root),
    )


def start_watched(ground: Ground, environ: Mapping[str, str], base: str) -> RunningContainer:
    """Start a container that waits for a run to attach to it; see :mod:`~pytest_envpar.worker.warm`.

    Args:
        base: Its name, and what the names of its volumes begin with.

    Raises:
        EngineError: The engine failed.
    """
    return start_container(
        ground.engine,
        ground.image,
        ground.stage,
        owner=ground.owner,
        command=(*_command(ground, WATCHED_BOOT), "watch"),
        source_plan=ground.plan,
        mounts=ground.mounts,
        env=_passed(ground, environ),
        tmpfs=_TMPFS,
        name=base,
        # Not in the project: what Python looks up there now it would not see changed later.
        workdir=PurePosixPath("/"),
        attach=False,
        # Other releases, which do not know what is warm, leave caches alone.
        more_labels={WARM: base, KIND: CACHE},
        watched=True,
    )


def _command(ground: Ground, boot: str) -> tuple[str, ...]:
    payload = ground.payload
    return (str(ground.probe.python), "-c", boot, str(payload.site or ""), str(payload.first or ""))


def _passed(ground: Ground, environ: Mapping[str, str]) -> dict[str, str]:
    return {name: environ[name] for name in ground.stage.pass_env if name in environ}
