"""The private network of a run, on which a stage and its services find each other by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_envpar.containers.lifecycle import container_name
from pytest_envpar.containers.removal import remove_owned
from pytest_envpar.errors import ConflictError, ServiceError

if TYPE_CHECKING:
    import contextlib

    from pytest_envpar.config.model import Stage
    from pytest_envpar.containers.labels import Owner
    from pytest_envpar.engine.api import Engine

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
        remove_owned(engine.remove_network, name)
        raise
    stack.callback(remove_owned, engine.remove_network, name)
    return name
