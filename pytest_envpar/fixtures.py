"""Containers as fixtures, in a plain pytest run on the host. Nothing of an engine is imported before a test asks.

PYTEST_DONT_REWRITE: there are no assertions to explain here.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_envpar import options
from pytest_envpar.errors import EnvparError, NoEngineError, UsageError
from pytest_envpar.worker.agent import fixtures as shared

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_envpar.session.shelf import Shelf

__all__: list[str] = []

_FALSE = ("", "0", "false", "no", "off")
_STAGE = re.compile(
    rb"^\s*\[\s*(?:tool\s*\.\s*envpar\s*\.\s*)?stages\s*\.\s*\"?([a-z][a-z0-9_]*)", re.MULTILINE
)


def pytest_configure(config: pytest.Config) -> None:
    """Offer the fixtures: those of the configured stages and those that are always there."""
    if config.pluginmanager.has_plugin("envpar-run"):
        return  # the tests run inside, and so do their fixtures
    try:
        options.keep_when(config.option)
    except UsageError as error:
        raise pytest.UsageError(*error.lines()) from None
    provider = Provider(config)
    config.pluginmanager.register(shared.module(provider, stage_names(config.rootpath)), "envpar-fixtures")


def stage_names(start: Path) -> list[str]:
    """The names of the configured stages, by a look at the file: whether it is right is told when one is used.

    Args:
        start: pytest's root (host).
    """
    for folder in (start, *start.parents):
        for name in ("envpar.toml", "pyproject.toml"):
            try:
                text = (folder / name).read_bytes()
            except OSError:
                continue
            if name == "envpar.toml" or b"tool.envpar" in text:
                return [found.decode() for found in dict.fromkeys(_STAGE.findall(text))]
    return []


class Provider:
    """Starts containers here. It changes: the first use connects to an engine."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._shelf: Shelf | None = None

    def facts(self) -> None:
        """A test in a plain run is in no stage."""

    def take(self, request: pytest.FixtureRequest, stage: str | None, name: str) -> Any:
        """A container for the fixture ``name``."""
        shelf = self._open()
        try:
            return shelf.take(request, stage, name)
        except Exception as error:  # noqa: BLE001 - sorted out there; only ours are told without a traceback
            self._give_up(error)

    def give_back(self, container: Any, name: str) -> None:
        """The fixture ``name`` is over."""
        self._open().give_back(container, name)

    def factory(self, request: pytest.FixtureRequest, name: str) -> Any:
        """What the fixture ``envpar_containers`` gives."""
        return self._open().factory(request, name, self._give_up)

    def close_factory(self, factory: Any, name: str) -> None:
        """The factory's containers are removed."""
        for container in list(factory.started):
            self._open().give_back(container, name)

    def _open(self) -> Shelf:
        if self._shelf is None:
            from pytest_envpar.session.shelf import Shelf

            try:
                self._shelf = shelf = Shelf(self._config)
            except Exception as error:  # noqa: BLE001 - as above
                self._give_up(error)
            self._config.pluginmanager.register(shelf, "envpar-shelf")
            self._config.add_cleanup(shelf.close)
        return self._shelf

    def _give_up(self, error: Exception) -> NoReturn:
        """Skip where nothing is set up, fail where something is wrong; no traceback of ours is shown."""
        from pytest_envpar.session.shelf import NotConfiguredError

        in_ci = os.environ.get("CI", "").strip().lower() not in _FALSE
        if isinstance(error, NotConfiguredError) or (isinstance(error, NoEngineError) and not in_ci):
            pytest.skip(one_line(error.lines()))
        if isinstance(error, (EnvparError, TimeoutError)):
            # Not pytest.fail(): the same words would be shown once more as what came before.
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        raise error


def one_line(lines: Sequence[str]) -> str:
    """An error as the reason of a skip."""
    return "; ".join(line.strip() for line in lines)
