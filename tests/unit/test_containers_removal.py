"""Removing what an engine is still busy with."""

from __future__ import annotations

import pytest

from pytest_envpar.containers.removal import remove_owned
from pytest_envpar.errors import ConflictError, ConnectionLostError, EngineError


class Engine:
    """Refuses to remove anything, each time with the next error."""

    def __init__(self, *errors: EngineError) -> None:
        self.errors = list(errors)
        self.asked: list[str] = []

    def remove(self, name: str) -> None:
        self.asked.append(name)
        if self.errors:
            raise self.errors.pop(0)


@pytest.mark.parametrize(
    ("errors", "asked"),
    [
        ([], 1),
        ([ConflictError("has active endpoints"), EngineError("is stopping")], 3),
        ([EngineError("never")] * 9, 4),
        ([ConflictError("in use"), ConnectionLostError("gone"), EngineError("never asked")], 2),
    ],
    ids=["at once", "when it is ready", "not at all", "nobody is there"],
)
def test_an_engine_is_asked_until_it_has_done_it(errors: list[EngineError], asked: int) -> None:
    engine = Engine(*errors)
    remove_owned(engine.remove, "name", (0.0, 0.0, 0.0))
    assert engine.asked == ["name"] * asked
