"""Environment parity for pytest: run a suite inside a stage's container and see how environments drift.

What a test may need for its annotations and its ``pytest.raises`` is here; inside a stage, too.

PYTEST_DONT_REWRITE: there are no assertions to explain here, and the command ``envpar`` imports this before pytest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_envpar.containers.checkpoint import Checkpoint
    from pytest_envpar.containers.handle import Address, Container
    from pytest_envpar.containers.handle_process import Process
    from pytest_envpar.drift.changes import Changes
    from pytest_envpar.drift.manifest import Manifest
    from pytest_envpar.drift.model import Comparison
    from pytest_envpar.engine.values.containers import Stats
    from pytest_envpar.engine.values.processes import ExecResult
    from pytest_envpar.errors import (
        CommandError,
        CommandTimeoutError,
        ConflictError,
        EngineError,
        EnvparError,
        NotFoundError,
        UsageError,
    )
    from pytest_envpar.session.shelf import ContainerFactory

__all__ = [
    "Address",
    "Changes",
    "Checkpoint",
    "CommandError",
    "CommandTimeoutError",
    "Comparison",
    "ConflictError",
    "Container",
    "ContainerFactory",
    "EngineError",
    "EnvparError",
    "ExecResult",
    "Manifest",
    "NotFoundError",
    "Process",
    "Stats",
    "UsageError",
]

_HOMES = {
    "Address": "containers.handle",
    "Changes": "drift.changes",
    "Checkpoint": "containers.checkpoint",
    "Comparison": "drift.model",
    "Container": "containers.handle",
    "ContainerFactory": "session.shelf",
    "ExecResult": "engine.values.processes",
    "Manifest": "drift.manifest",
    "Process": "containers.handle_process",
    "Stats": "engine.values.containers",
}


def __getattr__(name: str) -> Any:
    # Nothing below is imported before it is asked for: most runs use no container at all.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}")
    value = globals()[name] = getattr(module, name)
    return value
