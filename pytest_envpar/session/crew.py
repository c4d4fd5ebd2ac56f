"""What a stage run has to know of pytest-xdist, on both of its sides."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

from pytest_envpar.session import suffix

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pytest

_SCOPES = {
    "loadscope": "LoadScopeScheduling",
    "loadfile": "LoadFileScheduling",
    "loadgroup": "LoadGroupScheduling",
}


@contextlib.contextmanager
def speaking_of(config: pytest.Config, item: pytest.Item) -> Iterator[None]:
    """In a worker: report something of a test that is not the last one it ran.

    Args:
        config: The worker's configuration.
        item: The test.
    """
    worker = next(
        (plugin for plugin in config.pluginmanager.get_plugins() if hasattr(plugin, "item_index")), None
    )
    items = item.session.items
    if worker is None or item not in items:
        yield
        return
    last, worker.item_index = worker.item_index, items.index(item)
    try:
        yield
    finally:
        worker.item_index = last


def scheduler(config: pytest.Config, log: Any, stages: Sequence[str]) -> Any:
    """Spread what a mode of ``--dist`` keeps together for each stage by itself; ``None`` where xdist's own way does.

    A file, a class or a module is one thing per stage, because each stage has fixtures of its own. And the suffix of a
    node id is not the name of a group, as it would be to ``--dist=loadgroup``.

    Args:
        log: As for ``pytest_xdist_make_scheduler``.
        stages: The names of the run's stages.
    """
    name = _SCOPES.get(config.getoption("dist"))
    if name is None or len(stages) < 2:
        return None
    base: Any = getattr(importlib.import_module("xdist.scheduler"), name)

    class PerStage(base):  # type: ignore[misc]  # of some pytest-xdist
        def _split_scope(self, nodeid: str) -> str:
            bare, stage = suffix.split(nodeid, stages)
            scope: str = super()._split_scope(bare)
            return scope if stage is None else f"{scope}@{stage}"

    return PerStage(config, log)


class StageNode:
    """A worker as the report of one stage's test shows it: with the Python of that stage.

    Args:
        node: pytest-xdist's own.
        info: What is told of the Python, in place of the host's.
    """

    def __init__(self, node: Any, info: Mapping[str, Any]) -> None:
        self._node = node
        self.workerinfo = {**node.workerinfo, **info}

    def __getattr__(self, name: str) -> Any:
        if name == "_workerinfocache":  # the line that pytest makes of it, once for each node
            raise AttributeError(name)
        return getattr(self._node, name)
