"""The containers that tests ask for: of stages or images, some made ahead of time, all removed in the end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import threading
from typing import TYPE_CHECKING, Any, Literal

from pytest_envpar.config import check_stage
from pytest_envpar.config.model import Stage
from pytest_envpar.containers import idle
from pytest_envpar.containers.checkpoint import drop_nameless, image_of
from pytest_envpar.containers.recipe import Recipe
from pytest_envpar.containers.source import plan_source
from pytest_envpar.containers.sweep import sweep
from pytest_envpar.engine.select import select_engine
from pytest_envpar.errors import ConfigError, EnvparError, UsageError
from pytest_envpar.images import locking
from pytest_envpar.images.resolve import resolve
from pytest_envpar.worker.ahead import NOBODY, Ahead, Turn
from pytest_envpar.worker.comparer import Comparer
from pytest_envpar.worker.facts import facts_of
from pytest_envpar.worker.setup import Setup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pytest_envpar.config.model import Settings
    from pytest_envpar.containers.checkpoint import Checkpoint
    from pytest_envpar.containers.handle import Container
    from pytest_envpar.containers.labels import Owner
    from pytest_envpar.containers.services import Services
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.images.pinned import PinnedImage

AT_ONCE = 16
"""How many containers are started or removed at the same moment; more of them only wait for the engine's own locks."""

MOST = 500
"""How many containers one supply may have at once: a loop without an end shall not take the machine down."""

_SWEEP_S = 3.0


class Supply:
    """Owns every container that it starts until ``close``. Any number of threads may use it.

    Args:
        settings: The project's configuration; ``None`` where there is none, and then only images can be asked for.
        owner: Who owns what is made.
        engine: The engine, which stays the caller's; or what the configuration or the command line says, to connect to.
        cache_dir: Our cache folder (host).
        environ: The host's environment.
        mode: How strictly the lock file binds; ``None`` lets the environment decide.
        remember: Told of each checkpoint.
        services: By stage, those that run already and stay the caller's.
    """

    def __init__(
        self,
        settings: Settings | None,
        owner: Owner,
        engine: Engine | Sequence[str],
        cache_dir: Path,
        environ: Mapping[str, str],
        mode: locking.Mode | None = None,
        remember: Callable[[Checkpoint], None] | None = None,
        services: Mapping[str, Services] | None = None,
    ) -> None:
        self.settings = settings
        self.told: list[str] = []
        """Lines that the user has to see: what was locked, what is at the project's path."""
        self._owner = owner
        self._cache_dir = cache_dir
        self._environ = environ
        self._mode = mode or locking.mode_of(environ)
        self._remember = remember
        self._comparer = Comparer(owner.labels("probe"))
        self._lock = threading.RLock()
        self._recipes: dict[str, Recipe] = {}
        self._live: dict[str, Container] = {}
        self._services: dict[str, Services] = dict(services or {})
        self._own_services: list[Services] = []
        self._awaited: dict[str, Services] = {}
        self._ahead = Ahead(self.start, self._submit)
        self._idle: dict[str, tuple[tuple[str, ...], Any]] = {}
        self._removals: set[concurrent.futures.Future[None]] = set()
        self._work = concurrent.futures.ThreadPoolExecutor(AT_ONCE, "envpar-containers")
        self._closed = False
        self._checkpoints = False
        self._sweeper: threading.Thread | None = None
        self._ours = not _is_engine(engine)
        self.engine: Engine = (
            select_engine(tuple(engine), environ) if not _is_engine(engine) else engine  # type: ignore[arg-type, assignment]
        )
        if self._ours:
            self._sweeper = threading.Thread(target=self._sweep, name="envpar-sweep", daemon=True)
            self._sweeper.start()

    def _sweep(self) -> None:
        try:
            sweep(self.engine, everything_dead=False)
        except EnvparError:
            pass  # whoever starts a container meets an engine that does not work

    # What can be made

    def stage(self, name: str) -> Recipe:
        """How containers of a stage are started: its locked image, its keys, the project mounted as it says.

        Raises:
            ConfigError: The stage is not configured.
            UsageError: It cannot be had as configured.
            EngineError: The engine failed.
        """
        with self._lock:
            if name not in self._recipes:
                self._recipes[name] = self._of_stage(name)
            return self._recipes[name]

    def _of_stage(self, name: str) -> Recipe:
        settings = self.settings
        if settings is None or name not in settings.stages:
            known = ", ".join(settings.stages) if settings is not None else ""
            raise ConfigError(
                f"stage {name!r} is not configured" + (f" (configured: {known})" if known else ""),
                hint=f"add a table [tool.envpar.stages.{name}] with an image; see `envpar init`",
            )
        stage = settings.stages[name]
        check_stage(stage)
        engine, owner = self.engine, self._owner
        locked = locking.resolve_stage(
            engine,
            stage,
            settings,
            self._mode,
            progress=self.told.append,
            owner_labels=owner.labels("cache", name),
            setup=Setup(engine, settings, owner, self._cache_dir, self._environ, self.told.append),
        )
        self.told += locking.settle(locked, must=self._mode != "local")
        facts = facts_of(
            engine, locked.image, stage, settings.root, self._cache_dir, owner.labels("probe", name)
        )
        plan = plan_source(engine.info, facts, settings.source, settings.root, workdir=stage.workdir)
        if plan.why:
            self.told.append(f"stage {name}: {plan.why}")
        command, mounts = self._idling(locked.image.info.architecture, locked.image.image_id)
        services = self._services_of(stage, locked.services)
        return Recipe(
            engine,
            locked.image,
            stage,
            owner,
            named=name,
            command=command,
            plan=plan,
            mounts=mounts,
            env={
                **({} if services is None else services.env),
                **{key: self._environ[key] for key in stage.pass_env if key in self._environ},
            },
            ids=(facts.uid, facts.gid),
            comparer=self._comparer,
            remember=self._took,
            network=None if services is None else services.network,
        )

    def beside(self, stage: str) -> Services | None:
        """The services that run beside containers of ``stage``, if it has some and one was asked for."""
        return self._services.get(stage)

    def _services_of(self, stage: Stage, images: Mapping[str, PinnedImage]) -> Services | None:
        """The services of a stage, which all of its containers share; they are waited for by the first."""
        if not stage.services or stage.name in self._services:
            return self._services.get(stage.name)
        from pytest_envpar.containers.services import Services

        services = self._services[stage.name] = Services(self.engine, stage, images, self._owner)
        self._own_services.append(services)
        self._awaited[stage.name] = services
        services.start()
        return services

    def _await_services(self, container: Container) -> None:
        from pytest_envpar.containers.readiness import Vantage

        with self._lock:
            services = self._awaited.get(container.stage or "")
            if services is not None:
                python = str(container.recipe.stage.python or "python3")
                services.wait_ready(Vantage(self.engine, container.id, python))
                del self._awaited[container.stage or ""]

    def image(self, reference: str) -> Recipe:
        """How containers of an image are started: nothing of the project, the engine's own defaults.

        Raises:
            ImageError: The image cannot be had.
            EngineError: The engine failed.
        """
        key = f"image {reference}"
        with self._lock:
            if key not in self._recipes:
                self._recipes[key] = self._of_image(reference)
            return self._recipes[key]

    def _of_image(self, reference: str) -> Recipe:
        stage = Stage("image", image=reference)
        root = self.settings.root if self.settings is not None else self._cache_dir
        image = resolve(self.engine, stage, root, progress=self.told.append)
        command, mounts = self._idling(image.info.architecture, image.image_id)
        facts = facts_of(
            self.engine, image, stage, root, self._cache_dir, self._owner.labels("probe", "image")
        )
        return Recipe(
            self.engine,
            image,
            stage,
            self._owner,
            command=command,
            mounts=mounts,
            ids=(facts.uid, facts.gid),
            comparer=self._comparer,
            remember=self._took,
        )

    def _idling(self, architecture: str, image_id: str) -> tuple[tuple[str, ...], Any]:
        if architecture not in self._idle:
            labels = self._owner.labels("cache")
            self._idle[architecture] = idle.ensure(
                self.engine, architecture, image_id, labels, self._cache_dir
            )
        return self._idle[architecture]

    def varied(
        self,
        recipe: Recipe,
        *,
        command: Sequence[str] | Literal["image"] | None = None,
        env: Mapping[str, str] | None = None,
        ports: Sequence[int | str] = (),
    ) -> Recipe:
        """``recipe`` with another main process, more environment, published ports.

        Args:
            command: The program and its arguments; ``"image"`` for what the image says, ``None`` to idle.
            ports: Numbers, or text such as ``53/udp``.
        """
        if command == "image":
            recipe = dataclasses.replace(recipe, command=())
        elif command is not None:
            if isinstance(command, str) or not command:
                raise UsageError(f"command is a list of words, or 'image', not {command!r}")
            recipe = dataclasses.replace(recipe, command=tuple(command))
        named = tuple(text if "/" in (text := str(port)) else f"{text}/tcp" for port in ports)
        return dataclasses.replace(recipe, env={**recipe.env, **(env or {})}, ports=named)

    def _took(self, checkpoint: Checkpoint) -> None:
        self._checkpoints = True
        if self._remember is not None:
            self._remember(checkpoint)

    @property
    def project(self) -> str:
        """The project whose checkpoints these are."""
        return self._owner.project

    def restore(
        self, checkpoint: Checkpoint, like: Container | None = None, turn: Turn = NOBODY
    ) -> Container:
        """Start a container of a checkpoint, in the way of another one, or as its stage or image is started."""
        if like is not None:
            recipe = like.recipe
        elif checkpoint.stage in (self.settings.stages if self.settings is not None else ()):
            recipe = self.stage(str(checkpoint.stage))
        else:
            recipe = self.image(checkpoint.image_id)
        recipe = dataclasses.replace(recipe, image=image_of(self.engine, checkpoint))
        return self.start_likely(recipe, 1, turn)[0]

    # Containers

    def start(self, recipe: Recipe) -> Container:
        """Start one container."""
        with self._lock:
            if self._is_closed() or len(self._live) >= MOST:
                why = "the session is over" if self._closed else f"{MOST} containers are there already"
                raise UsageError(f"no more containers: {why}")
        container = dataclasses.replace(recipe, begun=self._begun).start()
        if self._awaited:
            try:
                self._await_services(container)
            except BaseException:
                self.drop(container)
                raise
        if not self._is_closed():
            return container
        # Closed meanwhile, by another thread: nobody else will remove it.
        container.remove()
        raise UsageError("no more containers: the session is over")

    def start_many(self, recipes: Sequence[Recipe]) -> list[Container]:
        """Start containers at the same time, all or none of them."""
        if len(recipes) == 1:
            return [self.start(recipes[0])]
        futures = [self._work.submit(self.start, recipe) for recipe in recipes]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            concurrent.futures.wait(futures)
            for future in futures:
                if not future.cancelled() and future.exception() is None:
                    self.drop(future.result())
            raise

    def take(self, key: str, recipe: Callable[[], Recipe], *, more: int = 0) -> Container:
        """A container that was started ahead under ``key``, or one that is started now.

        Args:
            more: How many are going to be asked for after this one; the next is started while this one is used.
        """
        return self._ahead.take(key, recipe(), more)

    def start_likely(self, recipe: Recipe, count: int, turn: Turn) -> list[Container]:
        """Start ``count`` containers, all or none of them; a single one may have been started ahead.

        Only what idles is: anything else would begin its work before the test that asks for it.
        """
        idles = any(recipe.command == command for command, _ in self._idle.values())
        if count != 1 or not idles:
            return self.start_many([recipe] * count)
        key = (recipe.named, recipe.image.image_id, tuple(sorted(recipe.env.items())), recipe.ports)
        return [self._ahead.likely(key, recipe, turn)]

    def _submit(self, recipe: Recipe) -> concurrent.futures.Future[Container] | None:
        with self._lock:
            return None if self._closed else self._work.submit(self.start, recipe)

    def drop(self, container: Container) -> None:
        """Remove a container; nobody waits for it."""
        with self._lock:
            self._live.pop(container.id, None)
            if not self._closed:
                removal = self._work.submit(container.remove)
                self._removals.add(removal)
                removal.add_done_callback(self._removals.discard)
                return
        container.remove()

    def settle(self) -> None:
        """Wait for the removals that are under way."""
        concurrent.futures.wait(list(self._removals))

    def release(self, container: Container) -> None:
        """Let a container stay when all is over."""
        with self._lock:
            self._live.pop(container.id, None)
        container.running.keep()

    def _is_closed(self) -> bool:
        return self._closed

    def _begun(self, container: Container) -> None:
        with self._lock:
            self._live[container.id] = container

    def close(self) -> None:
        """Remove everything and let go of the engine. Safe to repeat."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for future in self._ahead.futures():
            future.cancel()
        self._work.shutdown(wait=True)
        left = list(self._live.values())
        if left:
            with concurrent.futures.ThreadPoolExecutor(AT_ONCE, "envpar-removal") as removal:
                list(removal.map(lambda container: container.remove(), left))
        self._live.clear()
        for services in self._own_services:
            services.close()  # after the containers on their network
        if self._checkpoints:
            with contextlib.suppress(EnvparError):
                drop_nameless(self.engine, self._owner.project)
        if self._sweeper is not None:
            self._sweeper.join(_SWEEP_S)
        if self._ours:
            self.engine.close()


def _is_engine(value: object) -> bool:
    return hasattr(value, "create_container")
