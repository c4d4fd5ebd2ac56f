"""Our hooks, called at the edge: what they return is checked here and handed down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_envpar.drift.model import LEVELS
from pytest_envpar.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_envpar.drift.findings import Drift
    from pytest_envpar.drift.model import Change, Level
    from pytest_envpar.drift.packages.base import PackageFormat

GROUP = "envpar"
"""The entry points that the command loads; under pytest every plugin can have our hooks."""


class OwnFormats:
    """The plugin with the package formats that we bring."""

    @staticmethod
    def pytest_envpar_packages() -> list[PackageFormat]:
        """All of ours."""
        from pytest_envpar.drift.packages import own_formats

        return list(own_formats())


def command_manager() -> Any:
    """A plugin manager for the command, which does not load pytest: ours and the entry points of the group."""
    import pluggy

    from pytest_envpar import hookspecs

    manager = pluggy.PluginManager("pytest")
    manager.add_hookspecs(hookspecs)
    manager.load_setuptools_entrypoints(GROUP)
    return manager


def formats(hook: Any) -> tuple[PackageFormat, ...]:
    """Every package format: ours first, then those of plugins; of two for one ecosystem the plugin's.

    Raises:
        UsageError: A plugin returned something else.
    """
    by_name: dict[str, PackageFormat] = {each.ecosystem: each for each in OwnFormats.pytest_envpar_packages()}
    for returned in hook.pytest_envpar_packages():
        for each in returned if isinstance(returned, (list, tuple)) else [returned]:
            if not all(hasattr(each, name) for name in ("ecosystem", "installed", "owned", "records")):
                raise UsageError(
                    f"the hook pytest_envpar_packages returned {each!r}, which is no package format"
                )
            by_name[each.ecosystem] = each
    return tuple(by_name.values())


def classifier(hook: Any) -> Callable[[Change, Level], Level | None] | None:
    """The opinion of plugins on levels; None if no plugin has any."""
    if not hook.pytest_envpar_drift_classify.get_hookimpls():
        return None

    def classify(change: Change, level: Level) -> Level | None:
        told: Level | None = hook.pytest_envpar_drift_classify(change=change, level=level)
        if told is not None and told not in LEVELS:
            raise UsageError(f"the hook pytest_envpar_drift_classify returned {told!r}, which is no level")
        return told

    return classify


def found(hook: Any, drift: Drift) -> None:
    """Tell plugins what a comparison found."""
    hook.pytest_envpar_drift_found(drift=drift)
