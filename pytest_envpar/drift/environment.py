"""Facts of the environment that a running container gives its processes, as an inventory."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_envpar.drift.inside import facts
from pytest_envpar.drift.scanners import find_python
from pytest_envpar.errors import ConnectionLostError, EngineError

if TYPE_CHECKING:
    from pytest_envpar.drift.sides import Side

_TIMEOUT_S = 60.0
_MAX_FACTS = 1000
_MAX_CHARS = 10_000


def environments(left: Side, right: Side) -> tuple[dict[str, str], dict[str, str]] | None:
    """What a process of each container feels; ``None`` unless both run and have a Python that tells.

    Raises:
        ConnectionLostError: The engine went away.
    """
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(_environment, (left, right))
    return None if one is None or two is None else (one, two)


def _environment(side: Side) -> dict[str, str] | None:
    if side.engine is None or side.container is None or not side.container.running:
        return None
    program = ("-I", "-S", "-B", "-c", Path(facts.__file__).read_text(encoding="utf-8"))
    try:
        done = side.engine.exec(side.container.id, find_python(program), timeout_s=_TIMEOUT_S)
        told = json.loads(done.stdout)
    except ConnectionLostError:
        raise
    except (EngineError, TimeoutError, ValueError):
        return None
    if not isinstance(told, dict) or len(told) > _MAX_FACTS:
        return None
    return {str(name)[:_MAX_CHARS]: str(value)[:_MAX_CHARS] for name, value in told.items()}
