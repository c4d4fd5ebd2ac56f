"""What a worker is told before it starts: the command line, the terminal, and what only the host's cache knows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pytest_envpar import options
from pytest_envpar.session.link import CREDIT

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

    from pytest_envpar.session.link import Place
    from pytest_envpar.session.stage_place import StagePlaces


class Boot:
    """Questions to pytest's configuration, asked when a worker starts.

    Args:
        config: pytest's configuration.
        request: What the user asked.
        known: pytest's namespace with all that the host knows of the command line.
        places: The stage's containers.
        stage: The stage's name.
    """

    def __init__(
        self, config: pytest.Config, request: options.Request, known: Any, places: StagePlaces, stage: str
    ) -> None:
        self._config = config
        self._request = request
        self._known = known
        self._places = places
        self._stage = stage

    def options(self, place: Place) -> Mapping[str, Any]:
        """The options of :class:`~pytest_envpar.worker.agent.wire.Init` for a worker in ``place``."""
        from _pytest.config import create_terminal_writer  # noqa: TID251 - the host's colours; no public name

        # Without the terminal plugin there are no colours to ask for, and nothing is printed.
        writer = (
            create_terminal_writer(self._config, sys.stdout)
            if hasattr(self._config.option, "color")
            else None
        )
        paths = place.paths
        cwd = paths.to_container(self._config.invocation_params.dir)
        return {
            "args": [paths.argument(arg) for arg in self._request.args],
            "cwd": str(cwd or paths.container),
            "root": str(paths.container),
            "env": options.environment(),
            "module": self._request.module,
            "width": writer.fullwidth if writer is not None else 80,
            "markup": writer is not None and writer.hasmarkup,
            "relay": self.relays,
            "autostart": not self.others_select(),
            "credit": CREDIT,
            "cache_dir": None
            if self.relays or not self._config.pluginmanager.has_plugin("cacheprovider")
            else self._places.scratch,
            "cache": self._cache_values(),
            "pycache": self._places.pycache,
            "bytecode": self._places.bytecode,
            "own_options": [[option.name, option.kind] for option in (*options.OPTIONS, options.SHORT)],
            "stage": self._stage,
            "stages": self._places.stage_names,
            "facts": self._places.facts,
        }

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
            "cache/stepwise": self.stepwise,
        }
        cache = getattr(self._config, "cache", None)
        if cache is None and any(wanted.values()):
            from _pytest.cacheprovider import Cache  # noqa: TID251 - before configure there is no other way

            cache = Cache.for_config(self._config, _ispytest=True)
        values = {key: cache.get(key, None) for key, needed in wanted.items() if needed and cache is not None}
        return {key: value for key, value in values.items() if value is not None}

    @property
    def stepwise(self) -> bool:
        """Whether the run is one of ``--stepwise``, whose place in the suite the inside keeps."""
        return any(
            getattr(self._known, name, False) for name in ("stepwise", "stepwise_skip", "stepwise_reset")
        )

    @property
    def relays(self) -> bool:
        """Whether the run only lists what the inside knows: then the inside prints all of it."""
        asked = self._config.option
        return any(getattr(asked, name, False) for name in ("showfixtures", "show_fixtures_per_test"))
