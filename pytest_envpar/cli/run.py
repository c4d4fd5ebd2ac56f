"""``envpar run``: pytest, also where the host's pytest would refuse a command line that only the inside can judge.

pytest loads plugins of ``-p`` and ``PYTEST_PLUGINS``, looks at ``minversion`` and ``required_plugins``, and reads
warning filters before any plugin of ours is there. In a stage run none of that is the host's business.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar import options
from pytest_envpar.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_envpar.config.model import Settings, Stage
    from pytest_envpar.images.locking import Mode
    from pytest_envpar.session.launch import Launch

# Judged inside. Behind the user's own arguments, because of several -o with one name the last one counts.
_CALM = ("-p", "no:warnings", "-o", "minversion=0", "-o", "required_plugins=", "-o", "pythonpath=")


class _NotAStage(BaseException):
    """The command line looked like that of a stage run, and was none. No error: nothing may catch it."""


class TolerantStart:
    """A plugin that is there before all others. Found by its name; ``args`` is what the inside gets."""

    __name__ = "envpar-tolerant"

    def __init__(self, args: Sequence[str], launched: Launch | None = None) -> None:
        self.args = list(args)
        self._launched = launched

    def take(
        self, settings: Settings, stages: Sequence[Stage], engine: str | None, lock: Mode | None
    ) -> tuple[Launch, ...] | None:
        """Hand over what was begun early, if it is what pytest's reading of the command line asks for."""
        launched, self._launched = self._launched, None
        if launched is None:
            return None
        if len(stages) == 1 and launched.serves(settings, stages[0], engine, lock):
            return (launched,)
        launched.close()
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_parse(self, pluginmanager: pytest.PytestPluginManager) -> None:
        """Let plugins pass that are not on this side of the container."""
        load = pluginmanager.import_plugin

        def import_plugin(modname: str, consider_entry_points: bool = False) -> None:
            if _is_hosts(modname, _folders(pluginmanager)):
                load(modname, consider_entry_points=consider_entry_points)

        # pytest 8 reads minversion past every way to override it.
        config = pluginmanager.get_plugin("pytestconfig")
        if hasattr(config, "_checkversion"):
            setattr(config, "_checkversion", lambda: None)  # noqa: B010
        # Every way to name a plugin ends here, those of ini files and PYTEST_ADDOPTS included.
        setattr(pluginmanager, "import_plugin", import_plugin)  # noqa: B010 - mypy refuses a plain assignment

    @pytest.hookimpl(tryfirst=True)
    def pytest_load_initial_conftests(self, early_config: pytest.Config) -> None:
        """Go back if it is no stage run: ``--env`` of the user's own conftest, or ``--help``."""
        if not early_config.pluginmanager.has_plugin("envpar-run"):
            raise _NotAStage


def run(args: Sequence[str], launched: Launch | None = None) -> int:
    """Run pytest with ``args``; returns its exit status.

    Args:
        launched: What was begun before pytest was imported; the caller closes it in any case.

    Raises:
        UsageError: ``PYTEST_ADDOPTS`` has an open quote.
    """
    try:
        given = [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *args]
    except ValueError as error:
        raise UsageError(f"PYTEST_ADDOPTS cannot be split into arguments: {error}") from None
    if options.short_values(given) or any(arg.startswith(options.STAGE.name) for arg in given):
        try:
            return _main(host_args(args), [TolerantStart(args, launched)])
        except _NotAStage:
            pass
    return _main([*_ours(), *args], [])


def host_args(args: Sequence[str]) -> list[str]:
    """The command line for the host's own pytest in a stage run."""
    end = list(args).index("--") if "--" in args else len(args)
    return [*_ours(), *args[:end], *_CALM, *args[end:]]


def _ours() -> tuple[str, str]:
    """Our plugin by name, for where plugins are not loaded by themselves. Loading it twice is one time too many."""
    points = importlib.metadata.entry_points(group="pytest11")
    return ("-p", "envpar" if any(point.name == "envpar" for point in points) else "pytest_envpar.plugin")


def _main(args: list[str], plugins: list[Any]) -> int:
    """``pytest.main``, with our name in usage errors where pytest has a way to say it."""
    from _pytest import config  # noqa: TID251 - there is no public way

    named = getattr(config, "_main", None)
    if named is None:
        return int(pytest.main(args, plugins=plugins))
    return int(named(args=args, plugins=plugins, prog="envpar run"))


def _folders(pluginmanager: pytest.PytestPluginManager) -> tuple[Path, ...]:
    config = pluginmanager.get_plugin("pytestconfig")
    root = getattr(config, "rootpath", None) if config is not None else None
    return (Path.cwd(), root) if root is not None else (Path.cwd(),)


def _is_hosts(name: str, project: Sequence[Path]) -> bool:
    """Whether a plugin is installed here. Modules of the project itself are not: they belong to the inside."""
    if any(point.name == name for point in importlib.metadata.entry_points(group="pytest11")):
        return True
    top = name.partition(".")[0]
    for candidate in (f"_pytest.{name}", top):
        try:
            spec = importlib.util.find_spec(candidate)
        except (ImportError, ValueError, AttributeError):
            continue
        if spec is None:
            continue
        places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
        if top == "pytest_envpar" or not any(_is_theirs(Path(place), project) for place in places):
            return True
    return False


def _is_theirs(file: Path, project: Sequence[Path]) -> bool:
    """Whether a file is the project's: a virtual environment inside of its folder is not."""
    for name in ("purelib", "platlib", "stdlib"):
        if Path(sysconfig.get_path(name)) in file.parents:
            return False
    return any(folder in file.parents for folder in project)
