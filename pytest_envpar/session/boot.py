"""What a worker is told before it starts: the command line, the terminal, and what only the host's cache knows."""

from __future__ import annotations

import sys
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pytest_envpar import options
from pytest_envpar.session import foreign, suffix
from pytest_envpar.session.link import CREDIT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pytest

    from pytest_envpar.session.console import Console
    from pytest_envpar.session.link import Place
    from pytest_envpar.session.stage_place import StagePlaces

STEPWISE = "cache/stepwise"
NARROW = 8


class Boot:
    """Questions to pytest's configuration, asked when a worker starts.

    Args:
        config: pytest's configuration.
        request: What the user asked.
        known: pytest's namespace with all that the host knows of the command line.
        places: The stage's containers.
        stage: The stage's name.
        stages: All stages of the run.
        left: What a worker of the stage has to know of pollution by earlier ones; None if nobody asked.
        console: Standard input, if the stage may have it.
    """

    def __init__(
        self,
        config: pytest.Config,
        request: options.Request,
        known: Any,
        places: StagePlaces,
        stage: str,
        stages: Sequence[str],
        left: Callable[[], dict[str, Any]] | None = None,
        console: Console | None = None,
    ) -> None:
        self.waits = False
        """The stage runs only when its turn comes."""
        self._config = config
        self._request = request
        self._known = known
        self._places = places
        self._stage = stage
        self._stages = stages
        self._left = left
        self._console = console

    @property
    def crew(self) -> bool:
        """Whether this process is a worker of pytest-xdist, which is told what to run test by test."""
        return hasattr(self._config, "workerinput")

    def options(self, place: Place) -> Mapping[str, Any]:
        """The options of :class:`~pytest_envpar.worker.agent.wire.Init` for a worker in ``place``."""
        from _pytest.config import create_terminal_writer  # noqa: TID251 - the host's colours; no public name

        # Without the terminal plugin there are no colours to ask for, and nothing is printed.
        writer = (
            create_terminal_writer(self._config, sys.stdout)
            if hasattr(self._config.option, "color")
            else None
        )
        return {
            **self.of_place(place),
            "env": options.environment(),
            "module": self._module(),
            "width": writer.fullwidth if writer is not None else 80,
            "markup": writer is not None and writer.hasmarkup,
            "lines": _by_lines(sys.__stdout__),
            "relay": self.relays,
            "autostart": not self.crew and not self.expects_plan(),
            "crew": self._crew_input() if self.crew else None,
            "reports": foreign.reports(self._config.option),
            "distributes": hasattr(self._config.option, "numprocesses"),
            "credit": self._credit(),
            "cache": self._cache_values(),
            "own_options": [[option.name, option.kind] for option in (*options.OPTIONS, options.SHORT)],
            "stage": self._stage,
            "stages": self._places.stage_names,
            "input": None if self._console is None else self._console.asked(),
            "cap_drop": list(self._places.cap_drop),
            "pytest_cov": hasattr(self._known, "cov_source"),
            "pollution": self.pollution(),
        }

    def of_place(self, place: Place) -> Mapping[str, Any]:
        """Those of the options that depend on the container and its engine. Any thread may ask."""
        paths = place.paths
        cwd = paths.to_container(self._config.invocation_params.dir)
        cached = not self.relays and self._config.pluginmanager.has_plugin("cacheprovider")
        return {
            "args": [paths.argument(arg) for arg in self._arguments()],
            "cwd": str(cwd or paths.container),
            "root": str(paths.container),
            "cache_dir": self._places.scratch if cached else None,
            "pycache": self._places.pycache,
            "bytecode": self._places.bytecode,
            "facts": self._places.facts,
            "services": self._services(),
            "coverage": self._coverage(place),
        }

    def pollution(self) -> Mapping[str, Any] | None:
        """What a worker has to know of what earlier ones left in its container, told once; None if nobody asked."""
        if self._left is None:
            return None
        return {**self._left(), "state": str(_beside(self._places.scratch))}

    def _coverage(self, place: Place) -> Any:
        """What to measure, if the run is measured."""
        measured = self._config.pluginmanager.get_plugin("envpar-coverage")
        ground = self._places.ground
        if measured is None or ground is None or ground.tracer is None or self.relays:
            return None
        return measured.options(
            place, self._stage, ground.tracer, ground.probe.version, several=self._several
        )

    def _arguments(self) -> list[str]:
        """The command line for this stage."""
        args = suffix.arguments(self._request.args, self._stage, self._stages)
        if self._several and getattr(self._known, "lf", False) and self._remembered("cache/lastfailed"):
            # Some stage has failures to run again, so one without any has nothing to do. What the user says wins.
            args.insert(0, "--last-failed-no-failures=none")
        return args

    @property
    def _several(self) -> bool:
        return len(self._stages) > 1

    def _credit(self) -> int:
        """How far ahead of the host the inside may run."""
        # A failure in one stage ends the others, which know nothing of it: they do not run far ahead.
        return NARROW if self._several and getattr(self._known, "maxfail", None) else CREDIT

    def expects_plan(self) -> bool:
        """Whether the inside runs nothing before it is told what."""
        return not self.crew and (self.waits or self._request.fresh != "session" or self.others_select())

    def _crew_input(self) -> dict[str, Any]:
        plain = (str, int, float, bool, type(None))
        given: dict[str, Any] = getattr(self._config, "workerinput", {})
        return {key: value for key, value in given.items() if isinstance(value, plain)}

    def _module(self) -> bool:
        if not self.crew:
            return self._request.module
        # The process itself was started by execnet; the user has started its controller.
        given: dict[str, Any] = getattr(self._config, "workerinput", {})
        return options.started_as_module([str(word) for word in given.get("mainargv", ())])

    def _services(self) -> dict[str, Any]:
        services = self._places.services
        if services is None:
            return {}
        return {name: {"host": facts.host, "port": facts.port} for name, facts in services.facts.items()}

    def others_select(self) -> bool:
        """Whether a plugin on the host may drop or reorder items, so that the inside has to wait for a plan."""
        hook = self._config.hook.pytest_collection_modifyitems
        return any(
            not implementation.function.__module__.startswith(("_pytest.", "pytest_envpar."))
            for implementation in hook.get_hookimpls()
        )

    def _cache_values(self) -> dict[str, Any]:
        """What only the host's cache knows and the selection inside needs."""
        asked = self._known
        wanted = {
            "cache/lastfailed": asked.lf or asked.failedfirst if hasattr(asked, "lf") else False,
            "cache/nodeids": getattr(asked, "newfirst", False),
            STEPWISE: self.stepwise,
        }
        values = {
            key: self._remembered(self.stepwise_key if key == STEPWISE else key)
            for key, needed in wanted.items()
            if needed
        }
        if self._several:
            # The place of --stepwise is a stage's own already.
            values = {
                key: value if key == STEPWISE else suffix.of_stage(value, self._stage)
                for key, value in values.items()
            }
        return {key: value for key, value in values.items() if value is not None}

    def _remembered(self, key: str) -> Any:
        cache = getattr(self._config, "cache", None)
        if cache is None:
            from _pytest.cacheprovider import Cache  # noqa: TID251 - before configure there is no other way

            cache = Cache.for_config(self._config, _ispytest=True)
        return cache.get(key, None)

    @property
    def stepwise_key(self) -> str:
        """Where the host's cache keeps the stage's place in a run of ``--stepwise``."""
        return f"envpar/stepwise/{self._stage}" if self._several else STEPWISE

    @property
    def stepwise(self) -> bool:
        """Whether the run is one of ``--stepwise``, whose place in the suite the inside keeps."""
        return any(
            getattr(self._known, name, False) for name in ("stepwise", "stepwise_skip", "stepwise_reset")
        )

    @property
    def relays(self) -> bool:
        """Whether the run only lists what the inside knows: then the inside prints all of it."""
        return options.lists(self._config.option)


def _beside(scratch: str) -> PurePosixPath:
    """Where a worker keeps what the next one has to know of pollution (container path)."""
    return PurePosixPath(scratch).with_name("pollution")


def _by_lines(stream: Any) -> bool:
    """Whether what is printed to ``stream`` appears at once, as on a terminal, and not in blocks, as in a pipe."""
    return bool(getattr(stream, "line_buffering", False) or getattr(stream, "write_through", False))
