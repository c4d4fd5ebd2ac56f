"""What differs between the containers of tests, by way of :mod:`pytest_envpar.drift`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pytest_envpar.drift.changes import Changes, left_behind
from pytest_envpar.drift.manifest import Manifest
from pytest_envpar.drift.outside import Outside
from pytest_envpar.drift.produce import MemoryStore, Producer
from pytest_envpar.drift.routes import compare_sides
from pytest_envpar.drift.scanners import NoWayError
from pytest_envpar.drift.sides import Side, container_side

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_envpar.containers.handle import Container
    from pytest_envpar.drift.model import Comparison


class Comparer:
    """Looks at containers of this run. Their mounts are no part of them: the project and what is ours are left out, of
    volumes and tmpfs is said that they were not compared.

    Args:
        labels: For the containers that are made to look.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = labels
        self._store = MemoryStore()

    def changes(self, container: Container) -> Changes:
        """What changed since it was made."""
        hidden = container.running.mount_points()
        return left_behind(
            container.recipe.engine,
            container.id,
            hidden=hidden,
            store=lambda: contextlib.nullcontext(self._store),
        )

    def diff(self, left: Container, right: Container) -> Comparison:
        """How ``right`` differs from ``left``."""
        return compare_sides(_side(left), _side(right), self._store, labels=self._labels)

    def manifest(self, container: Container) -> Manifest:
        """All entries of its file system."""
        side = _side(container)
        outside = Outside(
            (str(path) for path in side.hidden), side.container.mounts if side.container else {}
        )
        with contextlib.ExitStack() as resources:
            producer = Producer(self._store, outside, self._labels, resources)
            try:
                made = producer.scan(side)
            except NoWayError:
                made = producer.export(side)
        (whole,) = made.stack.layers
        assert isinstance(whole, Manifest)
        return whole


def _side(container: Container) -> Side:
    plan = container.recipe.plan
    hidden = () if plan is None else (plan.container_root,)
    return container_side(container.recipe.engine, container.id, name=container.name, hidden=hidden)
