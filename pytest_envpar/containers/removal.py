"""Removing what is ours, also while the engine is still busy with it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_envpar.errors import ConnectionLostError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""What an engine is given to finish what it does: on a busy machine a second is soon gone."""


def remove_owned(remove: Callable[[str], None], name: str, pauses_s: Sequence[float] = PAUSES_S) -> None:
    """Remove an object of ours. Never raises: what cannot be removed at all is swept by a later run, whose labels say
    whose it was.

    Podman refuses to remove a container while it ends by itself, and engines a network while a container that was just
    removed is on its way out of it.

    Args:
        remove: The engine's verb. It takes a missing object for a removed one.
        name: Name or id.
        pauses_s: How long to wait before each further try.
    """
    for pause_s in (*pauses_s, None):
        try:
            remove(name)
        except ConnectionLostError:
            return  # nobody is there to do it
        except EngineError:
            if pause_s is not None:
                time.sleep(pause_s)
        else:
            return
