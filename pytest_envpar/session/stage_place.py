"""The containers of one stage run: the first, and a fresh one whenever the last is gone."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
from typing import TYPE_CHECKING

from pytest_envpar.containers.labels import Owner
from pytest_envpar.containers.sweep import sweep
from pytest_envpar.engine.bars import Teller
from pytest_envpar.errors import ConnectionLostError, EnvparError, ImageError, escaped
from pytest_envpar.images import locking
from pytest_envpar.session.fresh import Fresh
from pytest_envpar.session.keeping import StageKeeping
from pytest_envpar.session.pool import Pool
from pytest_envpar.worker import start

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pytest_envpar.config.model import Settings, Stage
    from pytest_envpar.containers.services import Services
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.images.pinned import PinnedImage
    from pytest_envpar.session.desk import Desk
    from pytest_envpar.session.reuse import Reuse
    from pytest_envpar.worker.agent import wire
    from pytest_envpar.worker.client import Client
    from pytest_envpar.worker.start import Ground, Site

SWEEP_S = 3.0
"""How long the end of a run waits for the sweep of older ones; the next run goes on with it."""


class StagePlaces:
    """Owns the engine connection and the current container. Closing it twice is fine.

    Args:
        settings: The project's configuration.
        stage: The stage.
        engine: The engine's URL if the command line named one.
        cache_dir: Our cache folder (host).
        environ: The host's environment.
        mode: How strictly the lock file binds; ``None`` lets the environment decide.
        turn: Which engine of a pool it is the turn of; see :class:`~pytest_envpar.session.pool.Pool`.
        reuse: Whether the first container is one that waits for this run, if there is one.
    """

    scratch = start.SCRATCH + "/cache"

    def __init__(
        self,
        settings: Settings,
        stage: Stage,
        engine: str | None,
        cache_dir: Path,
        environ: Mapping[str, str],
        mode: locking.Mode | None = None,
        turn: int = 0,
        *,
        reuse: bool = False,
    ) -> None:
        self._settings = settings
        self._stage = stage
        self._turn = turn
        self._pool = Pool((engine,) if engine else settings.engines, environ, _tell, turn)
        self._cache_dir = cache_dir
        self._environ = environ
        self._mode = mode or locking.mode_of(environ)
        # Now: pytest's capture will put something else there.
        self._terminal = os.isatty(0)
        self._settled = False
        self._engine: Engine | None = None
        self._ground: Ground | None = None
        self._site: Site | None = None
        self._services: Services | None = None
        self._lock = threading.Lock()
        self._sweeper: threading.Thread | None = None
        self._cancelled = False
        self._desk: Desk | None = None
        self.keeping = StageKeeping("never", environ, settings.root)
        self._fresh = Fresh(self._start)
        self.parting: Callable[[Engine, PinnedImage], None] | None = None
        """Called at the end, when the container is gone and the engine is still there."""
        # pytest has not started its own output yet.
        self._tell = Teller()
        self.reuses = reuse
        """Whether one that waits is asked for."""
        self._reuse: Reuse | None = None
        if reuse:
            from pytest_envpar.session.reuse import Reuse

            self._reuse = Reuse(environ, cache_dir / "warm", self._tell)

    def begin(self) -> None:
        """Start the first container; meant for a thread. Raises EnvparError, and then leaves nothing behind."""
        self.prepare(then_start=True)

    def prepare(self, *, then_start: bool = False) -> None:
        """Have everything ready that containers of the stage need: the image, the lock file, pytest for inside.

        Args:
            then_start: Start the first container, too. The lock file is written when that is used then.

        Raises:
            EnvparError: It cannot be had; nothing is left behind.
        """
        self._owner = Owner.current(self._settings.root)
        self._acquire(then_start=then_start)
        if not then_start and self._pool.several:
            self._prepare_others()
        engine = self._engine
        assert engine is not None
        # Leftovers of dead runs go while this run works; nobody waits for it.
        self._sweeper = threading.Thread(
            target=self._sweep_all, args=(engine,), name="envpar-sweep", daemon=True
        )
        self._sweeper.start()

    def _acquire(self, *, then_start: bool) -> None:
        """Prepare, and start, on the engine whose turn it is; on another one if that goes away meanwhile."""
        while True:
            self._engine = engine = self._pool.take()
            try:
                if self._cancelled:
                    engine.cancel()
                self._ground = ground = self._prepared(engine)
                if then_start:
                    self._services = start.start_services(ground)
                    self._site = self._reuse.take(ground) if self._reuse is not None else None
                    if self._site is None:
                        self._site = self._start()
                    if self._services is not None:
                        self._services.wait_ready(self._site.vantage())
                else:
                    self._settle(ground)
            except ConnectionLostError as error:
                if self._cancelled or not self._pool.lose(engine, error):
                    self.close()
                    raise
                self._let_go()
            except BaseException:
                self.close()
                raise
            else:
                return

    def _prepared(self, engine: Engine) -> Ground:
        """What the first engine of the pool that can says of the stage, made ready on ``engine``."""
        refused: ImageError | None = None
        with contextlib.closing(self._pool.homes(engine)) as homes:
            for home in homes:
                try:
                    return self._prepared_by(home, engine)
                except ImageError as error:
                    refused = refused or error
        assert refused is not None
        raise refused

    def _prepared_by(self, home: Engine, engine: Engine) -> Ground:
        return start.prepare(
            engine,
            self._settings,
            self._stage,
            self._owner,
            self._cache_dir,
            progress=self._tell,
            mode=self._mode,
            environ=self._environ,
            home=home,
        )

    def _prepare_others(self) -> None:
        """Have images and pytest on the whole pool, for the workers of other processes. Who fails tells it later."""
        import concurrent.futures

        others = self._pool.others()
        try:
            with concurrent.futures.ThreadPoolExecutor(max(1, len(others)), "envpar-pool") as threads:
                for engine in others:
                    threads.submit(self._prepare_other, engine)
        finally:
            for engine in others:
                engine.close()

    def _prepare_other(self, engine: Engine) -> None:
        home = self._engine
        assert home is not None
        with contextlib.suppress(EnvparError):
            self._prepared_by(home, engine)

    def _sweep_all(self, engine: Engine) -> None:
        """Of the engines of a pool each stage and worker sweeps its own; the first of them the others, too."""
        self._sweep(engine)
        if self._turn == 0:
            with contextlib.suppress(EnvparError):
                for other in self._pool.others():
                    self._sweep(other)
                    other.close()

    def _sweep(self, engine: Engine) -> None:
        try:
            sweep(engine, everything_dead=False)
        except EnvparError:
            pass  # the run itself will meet an engine that does not work; leftovers stay for the next run

    def cancel(self) -> None:
        """Let ``begin``, in its thread, fail soon and remove what it has made."""
        self._cancelled = True
        engine = self._engine
        if engine is not None:
            engine.cancel()

    def place(self) -> Site:
        """The current container. Whoever asks for it runs the stage, and only then the lock file is written."""
        if self._site is None:
            raise EnvparError(f"stage {self._stage.name!r} has no container")
        self._settle(self._site.ground)
        return self._site

    def _settle(self, ground: Ground) -> None:
        if not self._settled:
            self._settled = True
            locked = ground.locked
            if self._mode == "update":
                from pytest_envpar.session.baselines import fingerprinted

                locked = fingerprinted(locked, ground.engine, self._settings.root)
            for line in locking.settle(locked, must=self._mode != "local"):
                self._tell(line)

    def sweep(self) -> None:
        """Remove what processes of this run that died have left."""
        engine = self._engine
        if engine is not None:
            self._sweep_all(engine)

    def serve(self, call: wire.Call, client: Client) -> None:
        """Answer a test inside that asks for a container, in a thread."""
        if self._desk is None:
            assert self._ground is not None  # there is a worker that calls
            from pytest_envpar.session.desk import Desk

            self._desk = Desk(
                self._settings,
                self._stage.name,
                self._ground,
                self._cache_dir,
                self._environ,
                self._mode,
                self._services,
            )
        self._desk.take(call, client)

    def worker_gone(self) -> None:
        """Remove the containers of a dead worker's tests."""
        desk, self._desk = self._desk, None
        if desk is not None:
            desk.close()

    def another(self) -> Site:
        """A fresh container instead of the last one, which is gone or of no use any more."""
        engine = self._engine
        assert engine is not None
        try:
            if self._site is not None:
                self.keeping.blame("it ended while the suite ran")
                if not self.keeping.take(self._site):
                    self._site.close()
                self._site = None
            self._site = self._start()
        except ConnectionLostError as error:
            return self._elsewhere(engine, error)
        return self._site

    def _start(self) -> Site:
        assert self._ground is not None
        return start.start(self._ground, self._environ, services=self._services, terminal=self._terminal)

    def ahead(self, greet: Callable[[Site], None]) -> None:
        """Begin to start the container after the current one, and ``greet`` it; returns at once."""
        self._fresh.prepare(greet)

    def next(self, greet: Callable[[Site], None], look: Callable[[Site], None]) -> Site:
        """The container after the current one, which is removed beside it, after a last ``look``, or kept.

        Raises:
            EnvparError: It could not be started; the current one stays the current one.
        """
        engine = self._engine
        assert engine is not None
        self.worker_gone()
        try:
            site = self._fresh.take(greet)
        except ConnectionLostError as error:
            site = self._elsewhere(engine, error)
            greet(site)
            return site
        with self._lock:
            last, self._site = self._site, site
        if last is not None:
            if self.keeping.wants():
                self._fresh.settle()
                look(last)
                if self.keeping.take(last):
                    return site
            self._fresh.see_off(last, look)
        return site

    def leave_one(self) -> None:
        """Begin to start the container that waits for the next run, if one is to; returns at once."""
        if self._reuse is not None:
            self._reuse.leave()

    def settle(self) -> None:
        """Wait until former containers are gone."""
        self._fresh.settle()

    def _elsewhere(self, engine: Engine, error: ConnectionLostError) -> Site:
        """A container on another engine of the pool, as this one is lost."""
        if self._cancelled or not self._pool.lose(engine, error):
            raise error
        self._fresh.drop()
        self._let_go()
        self._acquire(then_start=True)
        assert self._site is not None
        return self._site

    def engine_gone(self) -> bool:
        """Whether the engine is lost, and another one of the pool can take over."""
        return self._engine is not None and self._pool.gone(self._engine)

    @property
    def lost(self) -> Mapping[str, str]:
        """Engines of a pool that this stage had to do without, and why."""
        return self._pool.lost

    def _let_go(self) -> None:
        """Forget what was on an engine that is gone. Its own next run removes what is left there."""
        with self._lock:
            site, self._site = self._site, None
            services, self._services = self._services, None
            engine, self._engine = self._engine, None
        for each in (site, services, engine):
            if each is not None:
                with contextlib.suppress(EnvparError):
                    each.close()

    @property
    def stage_names(self) -> list[str]:
        """The configured stages."""
        return list(self._settings.stages)

    @property
    def facts(self) -> dict[str, str]:
        """What ``envpar_stage`` tells inside: ``name``, ``image`` and ``engine``."""
        ground = self._ground
        if ground is None:
            return {}
        info = ground.engine.info
        return {
            "name": ground.stage.name,
            "image": ground.image.digest or ground.image.image_id,
            "engine": f"{info.kind} {info.version}",
        }

    @property
    def ground(self) -> Ground | None:
        """What the containers have in common, once the first one is there."""
        return self._ground

    @property
    def site(self) -> Site | None:
        """The current container, if there is one."""
        return self._site

    @property
    def cap_drop(self) -> tuple[str, ...]:
        """The capabilities that the stage drops."""
        return self._stage.cap_drop

    @property
    def services(self) -> Services | None:
        """The stage's services, which outlive its containers."""
        return self._services

    @property
    def pycache(self) -> str | None:
        """Where bytecode goes (container path) if the project's folder inside is the host's own and writable."""
        ground = self._ground
        return f"{start.SCRATCH}/pycache" if ground is not None and ground.plan.mode == "mount-rw" else None

    @property
    def bytecode(self) -> str | None:
        """Where the bytecode of rewritten test modules is kept between runs (container path), if anywhere."""
        ground = self._ground
        return str(ground.bytecode.target) if ground is not None and ground.bytecode is not None else None

    def header(self) -> list[str]:
        """Which stage, which exact image, which engine, how the project got in."""
        ground = self._ground
        if ground is None:
            return []
        info = ground.engine.info
        plan = ground.plan
        lines = [
            f"envpar: stage {ground.stage.name}, image {ground.image.short()}, {info.kind} {info.version}, "
            f"source {plan.mode}" + (f" at {plan.container_root}" if plan.mapped else "")
        ]
        if self._reuse is not None and self._reuse.taken:
            lines.append("envpar: in a warm container, unchanged since it was started")
        if plan.why:
            lines.append(f"envpar: {plan.why}")
        if ground.locked.services:
            named = (f"{name} {image.short()}" for name, image in ground.locked.services.items())
            lines.append(f"envpar: services {', '.join(named)}")
        lines += [f"envpar: {remark}" for remark in ground.locked.remarks]
        return lines

    def keep(self) -> None:
        """Let the current container and its services stay, if that was asked for; closing leaves them then."""
        with self._lock:
            site, services, engine = self._site, self._services, self._engine
            if site is not None and self.keeping.take(site):
                self._site = None
            if services is not None and engine is not None and self.keeping.take_services(services, engine):
                self._services = None

    def close(self) -> None:
        """Remove the container, the services and what belongs to them, and let go of the engine."""
        with self._lock:
            site, self._site = self._site, None
            services, self._services = self._services, None
            engine, self._engine = self._engine, None
        try:
            with contextlib.ExitStack() as stack:
                if services is not None:
                    # After the stage's own container: it is on their network.
                    stack.callback(services.close)
                if self._reuse is not None:
                    stack.callback(self._reuse.close)
                stack.callback(self._fresh.close)
                self.worker_gone()
                if site is not None:
                    site.close()
        except EnvparError as error:
            sys.stderr.write(
                f"envpar: could not remove everything; the next run tries again: {error.message}\n"
            )
        finally:
            if self._sweeper is not None:
                self._sweeper.join(SWEEP_S)
            if engine is not None:
                try:
                    if self.parting is not None and self._ground is not None:
                        self.parting(engine, self._ground.image)
                finally:
                    engine.close()


@functools.cache
def _tell(line: str) -> None:
    """Once, however many stages there are."""
    sys.stderr.write(f"envpar: {escaped(line)}\n")
