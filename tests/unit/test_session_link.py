"""What follows the death of a worker, as the host's side of the conversation has it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pytest_envpar.errors import WorkerDiedError
from pytest_envpar.session.crash import Death
from pytest_envpar.session.link import MAX_RESTARTS, Link
from pytest_envpar.session.pollution import PollutionReport
from pytest_envpar.worker.agent import wire
from pytest_envpar.worker.client import Gone

LEFT = {"left": [["created", "/tmp/left", "test_a"]], "died": "test_a", "state": "/state"}
DEATH = Death("killed", "", container_gone=False)
COLLECTED = wire.Collected([[-1, "File", "f", "f", None]], [[0, "Item", "x", "f::x"]], [], 0, [])


class Place:
    """A container whose worker says what was written down for it. It is its own client."""

    def __init__(self, *says: Any) -> None:
        self.client: Any = self
        self.paths: Any = None
        self.told: list[Any] = []
        self._says = list(says)

    def send(self, message: wire.Message) -> None:
        self.told.append(message)

    def receive(self, _timeout_s: float | None) -> Any:
        return self._says.pop(0)

    def autopsy(self) -> str | None:
        return None

    def pollution(self) -> Any:
        return self.told[0].options["pollution"]


class Launch:
    """Has these places; all but the last are on an engine that is lost."""

    def __init__(self, *places: Place) -> None:
        self.places = list(places)
        self.gone = 0

    def place(self) -> Place:
        return self.places.pop(0)

    another = place

    def serve(self, call: wire.Call, client: Any) -> None:
        raise NotImplementedError

    def worker_gone(self) -> None:
        self.gone += 1

    def engine_gone(self) -> bool:
        return bool(self.places)


class Briefing:
    """Says of a place what its name is; what is left of pollution it tells once."""

    def __init__(self, left: Any = None) -> None:
        self.left = [left]
        self.asked = 0

    def options(self, place: Any) -> dict[str, Any]:
        self.asked += 1
        told = {"credit": 10, "crew": None, "width": 80, "cache": {"cache/x": 1}}
        return {**told, **self.of_place(place), "pollution": self.left[0]}

    def of_place(self, place: Any) -> dict[str, Any]:
        return dict.fromkeys(("args", "cwd", "facts", "services"), id(place))

    def pollution(self) -> Any:
        return self.left.pop()


def booted(launch: Launch, pollution: Any = None) -> Link:
    link = Link(launch, "qa", Briefing(pollution))
    link.boot()
    return link


def test_what_was_left_is_told_in_the_container_it_was_left_in() -> None:
    first, further = Place(COLLECTED), Place()
    link = booted(Launch(first), LEFT)
    first.told.clear()
    link.restart(DEATH, [0], ["f::x"])
    assert first.pollution() == LEFT
    link.greet(further)
    assert further.pollution() == {"left": [], "died": "", "state": "/state"}


def test_nobody_has_died_in_the_next_container() -> None:
    report = PollutionReport(shown=False)
    report.died("qa", "test_a")
    assert report.remembered("qa")["died"] == "test_a"
    report.died("qa", "test_a")
    report.next_container("qa")
    assert report.remembered("qa")["died"] == ""


@pytest.mark.parametrize("moves", [False, True])
def test_an_engine_that_goes_while_a_fresh_worker_collects(moves: bool) -> None:
    first, second, last = Place(Gone("")), Place(Gone("")), Place(COLLECTED)
    launch = Launch(first, second, last)
    link = booted(launch)
    lost = link.move(link.place, [0], ["f::x"], 0) if moves else link.restart(DEATH, [0], ["f::x"])
    assert lost == []
    assert link.place is last
    init, plan = last.told
    assert init.options["autostart"] is False
    assert plan.indices == [0]
    # What tests were given on the lost engines is let go of.
    assert launch.gone == (2 if moves else 3)


def test_a_fresh_worker_is_told_where_it_is() -> None:
    first, second, third, fourth = Place(), Place(Gone("")), Place(COLLECTED), Place()
    briefing = Briefing()
    link = Link(Launch(first, second, third), "qa", briefing)
    link.boot()
    link.restart(dataclasses.replace(DEATH, container_gone=True), [0], ["f::x"])
    link.greet(fourth)
    for place in (second, third, fourth):
        told = place.told[0].options
        assert {told[name] for name in ("args", "cwd", "facts", "services")} == {id(place)}
        assert (told["width"], told["cache"]) == (80, {})
    # What the terminal is like may look otherwise as long as pytest captures.
    assert briefing.asked == 1


def test_a_container_started_ahead_takes_nothing_from_the_worker_of_now() -> None:
    first = Place(COLLECTED)
    link = booted(Launch(first), LEFT)
    first.told.clear()
    link.greet(Place())
    link.restart(DEATH, [0], ["f::x"])
    assert first.pollution() == LEFT


def test_an_engine_that_comes_and_goes_is_given_up() -> None:
    launch = Launch(*(Place(Gone("")) for _ in range(MAX_RESTARTS + 5)))
    link = booted(launch)
    with pytest.raises(WorkerDiedError, match="died before it had collected"):
        link.restart(DEATH, [0], ["f::x"])
    assert len(launch.places) == 4
