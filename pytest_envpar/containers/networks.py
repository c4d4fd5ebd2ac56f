"""The private network of a run, on which a stage and its services find each other by name."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_envpar.containers.lifecycle import container_name
from pytest_envpar.errors import ConflictError, ConnectionLostError, EngineError, ServiceError

if TYPE_CHECKING:
    import contextlib

    from pytest_envpar.config.model import Stage
    from pytest_envpar.containers.labels import Owner
    from pytest_envpar.engine.api import Engine

_REMOVALS = 5
_REMOVAL_PAUSE_S = 0.1
_NOT_TO_BE_JOINED = ("host", "container:", "ns:", "pod:")


def open_network(engine: Engine, stage: Stage, owner: Owner, stack: contextlib.ExitStack) -> str:
    """Create the network of one run of ``stage``; its removal is on ``stack``, also if the creation is interrupted.

    A stage without a network (``network = "none"``) gets one that leads to its services and nowhere else.

    Returns:
        Its name.

    Raises:
        ServiceError: The stage's own ``network`` cannot be combined with another one.
        EngineError: The engine failed.
    """
    if stage.network is not None and stage.network.startswith(_NOT_TO_BE_JOINED):
        raise ServiceError(
            f"stage {stage.name!r}: network = {stage.network!r} leaves no room for the network of its services",
            hint="remove 'network', or name a network of the engine, which is joined as well",
        )
    name = container_name(owner, stage.name)
    labels = owner.labels("run", stage.name)
    try:
        engine.create_network(name, labels=labels, internal=stage.network == "none")
    except ConflictError:
        raise  # the name is someone else's: not ours to remove
    except BaseException:
        _remove(engine, name)
        raise
    stack.callback(_remove, engine, name)
    return name


def _remove(engine: Engine, network: str) -> None:
    for attempt in range(_REMOVALS):
        if attempt:
            # A container that was just removed may still be on its way out of the network.
            time.sleep(_REMOVAL_PAUSE_S)
        try:
            engine.remove_network(network)
        except ConnectionLostError:
            return
        except EngineError:
            continue
        return
