"""Calls from inside a stage that compare containers: the work is done here, the result travels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_envpar.worker.agent import comparisons

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_envpar.containers.handle import Container

    Answer = tuple[dict[str, Any], Iterable[bytes]]


def changes(container: Container) -> Answer:
    """What :meth:`Container.changes` gives."""
    return {}, comparisons.pack(comparisons.changes_rows(container.changes()))


def diff(container: Container, other: Container) -> Answer:
    """What :meth:`Container.diff` gives."""
    made = container.diff(other)
    told = {"left": made.left, "right": made.right, "route": made.route}
    return told, comparisons.pack(comparisons.comparison_rows(made))


def manifest(container: Container) -> Answer:
    """What :meth:`Container.manifest` gives."""
    made = container.manifest()
    notes = [[note.path, note.reason] for note in made.notes()]
    told = {"count": made.count, "fingerprint": made.fingerprint, "notes": notes}
    return told, comparisons.pack(map(comparisons.entry_row, made))
