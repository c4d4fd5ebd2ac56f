"""How tests are shared out between containers, and who removes what was started ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.errors import EngineError
from pytest_envpar.session.fresh import Fresh, first_turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_envpar.session.fresh import Scope

IDS = ("a.py::x", "a.py::y[b.py::z]", "b.py::x", "a.py::z")


@pytest.mark.parametrize(
    ("scope", "indices", "expected"),
    [
        ("session", [0, 2, 1], [0, 2, 1]),
        ("module", [0, 1, 2, 3], [0, 1]),
        ("module", [3, 2, 0], [3]),
        ("test", [1, 0], [1]),
        ("test", [], []),
    ],
)
def test_the_first_turn(scope: Scope, indices: Sequence[int], expected: list[int]) -> None:
    assert first_turn(scope, indices, IDS) == expected


class Place:
    """Stands for a container."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def close(self) -> None:
        self.told.append("closed")


def test_what_was_started_ahead_is_greeted_and_taken_once() -> None:
    told: list[str] = []
    place: Any = Place(told)

    def start() -> Any:
        told.append("started")
        return place

    fresh = Fresh(start)
    fresh.prepare(lambda _: told.append("greeted"))
    fresh.prepare(lambda _: told.append("greeted again"))
    assert fresh.take(lambda _: told.append("greeted late")) is place
    fresh.see_off(place, lambda _: told.append("looked"))
    fresh.settle()
    fresh.close()
    assert told == ["started", "greeted", "looked", "closed"]


def test_what_was_not_taken_is_removed() -> None:
    told: list[str] = []
    place: Any = Place(told)
    started: Any = place
    fresh = Fresh(lambda: started)
    fresh.prepare(lambda _: None)
    fresh.close()
    fresh.close()
    assert told in (["closed"], [])  # it may not have begun


def test_an_engine_that_fails_is_told_to_whoever_takes() -> None:
    def fail() -> Any:
        raise EngineError("no room")

    fresh = Fresh(fail)
    fresh.prepare(lambda _: None)
    with pytest.raises(EngineError, match="no room"):
        fresh.take(lambda _: None)
    fresh.prepare(lambda _: None)
    fresh.close()
