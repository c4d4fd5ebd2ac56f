"""Plugins of others that are on the host, too: those that work on tests do it inside, and only there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from pytest_envpar.session.stage_place import StagePlaces

_INSIDE = (
    "pytest_asyncio",
    "pytest_django",
    "pytest_mock",
    "pytest_randomly",
    "pytest_rerunfailures",
    "pytest_subtests",
    "pytest_timeout",
    "_hypothesis_pytestplugin",
)
"""Top-level modules of plugins that order, repeat, limit, wrap or parametrize tests, or import the project."""


_REPORTS = ("htmlpath", "json_report")
"""Options of plugins that write a report: pytest-html, pytest-json-report."""


def reports(option: Any) -> list[str]:
    """The options of reports that this side writes, of everything that it shows."""
    return [name for name in _REPORTS if hasattr(option, name)]


def metadata(known: MutableMapping[str, Any], facts: Mapping[str, Any], places: StagePlaces) -> None:
    """For pytest-metadata, and so for reports: the environment is the stage's."""
    known.update({"Python": facts.get("python"), "Platform": f"{facts.get('platform')}, in a container"})
    known["Packages"] = {"pytest": facts.get("pytest"), "pluggy": facts.get("pluggy")}
    known.pop("Plugins", None)  # are those of this side
    known.update({name: str(value) for name, value in places.facts.items() if name in ("image", "engine")})
    known["stage"] = places.facts.get("name")


def stand_aside(manager: Any) -> None:
    """Unregister them, in the middle of ``pytest_load_initial_conftests``.

    What they would still do in that very hook is left out: pytest-django imports the project's settings there.
    """
    for implementation in manager.hook.pytest_load_initial_conftests.get_hookimpls():
        if _is_inside(implementation.plugin):
            implementation.function = _nothing
    for plugin in list(manager.get_plugins()):
        if _is_inside(plugin):
            manager.unregister(plugin)


def _is_inside(plugin: Any) -> bool:
    name = getattr(plugin, "__name__", None)
    module = name if isinstance(name, str) else type(plugin).__module__
    return module.split(".")[0] in _INSIDE


def _nothing(*_: Any) -> None:
    """Instead of a hook's function."""
