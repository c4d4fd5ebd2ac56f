"""The containers of a plain run's fixtures: when to start the next one, whose log to show, what to keep."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar import options, userfiles
from pytest_envpar.config import find_config, load_settings
from pytest_envpar.containers.labels import Owner
from pytest_envpar.errors import ConfigError, EnvparError, UsageError
from pytest_envpar.images import locking
from pytest_envpar.session.keeping import Kept
from pytest_envpar.session.service_reports import sections
from pytest_envpar.worker.agent.fixtures import Demand
from pytest_envpar.worker.ahead import Turn
from pytest_envpar.worker.supply import Supply

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from pytest_envpar.containers.checkpoint import Checkpoint
    from pytest_envpar.containers.handle import Container
    from pytest_envpar.containers.recipe import Recipe

_LOG_LINES = 200


class NotConfiguredError(ConfigError):
    """A container of a stage that there is no configuration for: the test is skipped."""


class Shelf:
    """Owns the containers of one pytest session; registered as a plugin at the first use."""

    def __init__(self, config: pytest.Config) -> None:
        option = config.option
        file = find_config(config.rootpath) or find_config(config.invocation_params.dir)
        settings = load_settings(file) if file is not None else None
        root = settings.root if settings is not None else config.rootpath
        urls = tuple(getattr(option, options.ENGINE.dest, None) or ())
        environ = dict(os.environ)
        frozen, update = (
            bool(getattr(option, each.dest, False)) for each in (options.FROZEN, options.UPDATE)
        )
        self._settings = settings
        self._environ = environ
        self._kept = Kept(options.keep_when(option), environ)
        self._demand = Demand()
        self._users: dict[str, list[Container]] = {}
        self._failed: set[str] = set()
        self._began = 0.0
        self.supply = Supply(
            settings,
            Owner.current(root),
            urls or (settings.engines if settings is not None else ("auto",)),
            userfiles.cache_dir(environ),
            environ,
            locking.mode_of(environ, frozen=frozen, update=update),
            remember=userfiles.remember_checkpoint(root, environ),
        )

    # For fixtures

    def default_stage(self) -> str:
        """The stage of ``envpar_container`` outside of any: ``dev``, else the first one that is configured."""
        if self._settings is None or not self._settings.stages:
            raise NotConfiguredError(
                "no stages are configured",
                hint="add a table [tool.envpar.stages.dev] with an image; see `envpar init`",
            )
        return "dev" if "dev" in self._settings.stages else next(iter(self._settings.stages))

    def recipe(self, stage: str | None) -> Recipe:
        """How containers of ``stage`` are started; ``None`` is the default one."""
        name = self.default_stage() if stage is None else stage
        if self._settings is None or name not in self._settings.stages:
            raise NotConfiguredError(
                f"stage {name!r} is not configured",
                hint=f"add a table [tool.envpar.stages.{name}] with an image; see `envpar init`",
            )
        return self.supply.stage(name)

    def take(self, request: pytest.FixtureRequest, stage: str | None, name: str) -> Container:
        """A container for the fixture ``name``; the next one is started if another test will ask for it."""
        recipe = self.recipe(stage)
        container = self.supply.take(name, lambda: recipe, more=self._demand.left(request, name))
        self._users.setdefault(name, []).append(container)
        return container

    def give_back(self, container: Container, name: str) -> None:
        """Remove a container, or keep it where that was asked for."""
        users = self._users.get(name, [])
        if container in users:
            users.remove(container)
        if self._kept.wants(failed=container.id in self._failed):
            self._kept.note(container, self.supply)
        else:
            self.supply.drop(container)

    def factory(
        self, request: pytest.FixtureRequest, name: str, give_up: Callable[[Exception], Any]
    ) -> ContainerFactory:
        """What ``envpar_containers`` gives."""
        turn = Turn(*self._demand.turn(request, name))
        return ContainerFactory(self, self._users.setdefault(name, []), give_up, turn)

    def close(self) -> None:
        """Remove all that is left."""
        self.supply.close()

    # For pytest

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """The logs of a failed test's containers, and of the services beside them, are sections of its report."""
        report = yield
        if report.when == "setup":
            self._began = report.start
        if report.failed:
            stages: dict[str, None] = {}
            for name in getattr(item, "fixturenames", ()):
                for container in self._users.get(name, ()):
                    self._failed.add(container.id)
                    stages[container.stage or ""] = None
                    log = _log(container)
                    if log:
                        report.sections.append((f"envpar: log of {container.name} ({name})", log))
            for stage in stages:
                services = self.supply.beside(stage)
                if services is not None:
                    report.sections += sections(services, self._began, report.stop)
        return report

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """What had to be told: a lock that was written, containers that were kept."""
        lines = [*dict.fromkeys(self.supply.told), *self._kept.lines()]
        if lines:
            terminalreporter.section("envpar")
            for line in lines:
                terminalreporter.write_line(line)


class ContainerFactory:
    """The fixture ``envpar_containers``: containers of any stage or image, removed with the fixture.

    Attributes:
        started: What it has started.
    """

    def __init__(
        self, shelf: Shelf, started: list[Container], give_up: Callable[[Exception], Any], turn: Turn
    ) -> None:
        self._shelf = shelf
        self._give_up = give_up
        self._turn = turn
        self.started = started

    def start(
        self,
        stage: str | None = None,
        *,
        image: str | None = None,
        command: Sequence[str] | str | None = None,
        env: Mapping[str, str] | None = None,
        ports: Sequence[int | str] = (),
    ) -> Container:
        """Start one container and return when it runs.

        Args:
            stage: A configured stage; the active or default one if neither it nor an image is named.
            image: A reference instead of a stage: nothing of the project, the engine's own defaults.
            command: The main process: a list of words, ``"image"`` for what the image says; idle by default.
            env: Added to the environment.
            ports: Published on the loopback address, numbers or text such as ``53/udp``; see ``Container.port``.

        Raises:
            UsageError: There is no such image, or the container cannot be as asked for.
            EngineError: The engine failed.
        """
        return self.start_many(1, stage, image=image, command=command, env=env, ports=ports)[0]

    def start_many(
        self,
        count: int,
        stage: str | None = None,
        *,
        image: str | None = None,
        command: Sequence[str] | str | None = None,
        env: Mapping[str, str] | None = None,
        ports: Sequence[int | str] = (),
    ) -> list[Container]:
        """Start ``count`` containers at the same time, all or none of them; see :meth:`start`."""
        if stage is not None and image is not None:
            raise UsageError("name a stage or an image, not both")
        if count < 1:
            raise UsageError(f"{count} containers cannot be started")
        try:
            recipe = self._shelf.recipe(stage) if image is None else self._shelf.supply.image(image)
            varied = self._shelf.supply.varied(recipe, command=command, env=env, ports=ports)
            made = self._shelf.supply.start_likely(varied, count, self._turn)
        except NotConfiguredError as error:
            self._give_up(error)
            raise
        self.started += made
        return made

    def checkpoint(self, name: str) -> Checkpoint | None:
        """The project's checkpoint of that name, whichever run took it; ``None`` if there is none."""
        from pytest_envpar.containers import checkpoint

        supply = self._shelf.supply
        return checkpoint.find(supply.engine, supply.project, name)

    def restore(self, checkpoint: Checkpoint | str, like: Container | None = None) -> Container:
        """Start a container with the files of a checkpoint.

        Args:
            checkpoint: What ``Container.checkpoint`` gave, or its name.
            like: Started in the same way as this one; by default as containers of the checkpoint's stage are.

        Raises:
            UsageError: There is no such checkpoint.
        """
        found = self.checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint
        if found is None:
            raise UsageError(
                f"there is no checkpoint {checkpoint!r}", hint="take one: container.checkpoint(name)"
            )
        made = self._shelf.supply.restore(found, like, self._turn)
        self.started.append(made)
        return made


def _log(container: Container) -> str:
    try:
        text = container.logs(tail=_LOG_LINES)
    except EnvparError:
        return ""  # it is gone; the failure itself says more
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "?" for sign in text).rstrip()
