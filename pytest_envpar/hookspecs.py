"""The hooks that plugins can implement. Under pytest every plugin may; the command `envpar` loads the entry points of
the group ``envpar``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_envpar.drift.findings import Drift
    from pytest_envpar.drift.model import Change, Level
    from pytest_envpar.drift.packages.base import PackageFormat

hookspec = pluggy.HookspecMarker("pytest")


@hookspec
def pytest_envpar_packages() -> Sequence[PackageFormat]:  # type: ignore[empty-body]
    """Give more package formats, or other ones for an ecosystem that we know.

    Returns:
        Objects with the four members of :class:`~pytest_envpar.drift.packages.base.PackageFormat`.
    """


@hookspec(firstresult=True)
def pytest_envpar_drift_classify(change: Change, level: Level) -> Level | None:
    """Say of which level a path is that differs and belongs to no package.

    Args:
        change: The path, with the entries of both sides.
        level: What it is by our own rules.

    Returns:
        Another level, or None to leave it to others.
    """


@hookspec
def pytest_envpar_drift_found(drift: Drift) -> None:
    """Called with the result of each comparison, whether anything differs or not.

    Args:
        drift: Everything that differs, with levels and what was hidden.
    """


@hookspec
def pytest_envpar_report_written(path: Path, form: str) -> None:
    """Called for each report of ``--env-report`` once it is there.

    Args:
        path: The file (host).
        form: ``html``, ``json``, ``markdown`` or ``sarif``.
    """
