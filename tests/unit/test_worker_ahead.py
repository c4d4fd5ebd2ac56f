"""Which containers are started before anybody asks for them."""

from __future__ import annotations

import concurrent.futures
import types
from typing import Any

import pytest

from pytest_envpar.errors import EngineError, UsageError
from pytest_envpar.worker.agent.fixtures import Demand
from pytest_envpar.worker.ahead import DEEPEST, Ahead, Turn


class Engine:
    """Starts by number; what is started ahead is there when the test says so."""

    def __init__(self) -> None:
        self.started = 0
        self.pending: list[concurrent.futures.Future[Any]] = []
        self.closed = False

    def start(self, recipe: Any) -> Any:
        self.started += 1
        return f"{recipe}{self.started}"

    def submit(self, _: Any) -> concurrent.futures.Future[Any] | None:
        if self.closed:
            return None
        self.pending.append(concurrent.futures.Future())
        return self.pending[-1]

    def finish(self) -> None:
        for future in self.pending:
            if not future.done():
                future.set_result(self.start("ahead "))


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def ahead(engine: Engine) -> Any:
    return Ahead(engine.start, engine.submit)


def test_the_next_one_is_started_while_this_one_is_used(engine: Engine, ahead: Any) -> None:
    assert ahead.take("k", "r", 2) == "r1"
    assert len(engine.pending) == 1
    engine.finish()
    assert ahead.take("k", "r", 1) == "ahead 2"
    engine.finish()
    assert ahead.take("k", "r", 0) == "ahead 3"
    assert len(engine.pending) == 2
    assert ahead.take("other", "r", 0) == "r4"
    assert ahead.futures() == []


def test_more_are_started_where_tests_are_faster_than_the_engine(engine: Engine) -> None:

    class Slow(concurrent.futures.Future[Any]):
        def result(self, timeout: float | None = None) -> Any:
            if not self.done():
                self.set_result("late")
            return super().result(timeout)

    def submit(_: Any) -> Any:
        engine.pending.append(Slow())
        return engine.pending[-1]

    ahead: Any = Ahead(engine.start, submit)
    depths = []
    for left in range(9, -1, -1):
        ahead.take("k", "r", left)
        depths.append(len(ahead.futures()))
    assert depths == [1, 2, 3, DEEPEST, DEEPEST, DEEPEST, 3, 2, 1, 0]
    assert len(engine.pending) == 9  # none too many


def test_only_what_a_second_test_asks_for_is_likely(engine: Engine, ahead: Any) -> None:
    ahead.likely("k", "r", Turn(1, 3))
    ahead.likely("k", "r", Turn(1, 3))  # the same test
    ahead.likely("other", "r", Turn(2, 2))
    assert engine.pending == []
    ahead.likely("k", "r", Turn(2, 2))
    assert len(engine.pending) == 1
    engine.finish()
    assert ahead.likely("k", "r", Turn(3, 1)) == "ahead 5"
    engine.finish()
    assert ahead.likely("k", "r", Turn(4, 0)) == "ahead 6"
    assert ahead.futures() == []


def test_what_failed_ahead_of_time_is_tried_once_more(engine: Engine, ahead: Any) -> None:
    ahead.take("k", "r", 1)
    engine.pending[0].set_exception(EngineError("gone for a moment"))
    assert ahead.take("k", "r", 1) == "r2"
    engine.pending[1].set_exception(UsageError("wrong"))
    with pytest.raises(UsageError):
        ahead.take("k", "r", 0)


def test_nothing_is_started_when_all_is_over(engine: Engine, ahead: Any) -> None:
    engine.closed = True
    ahead.take("k", "r", 5)
    assert ahead.futures() == []


def test_demand_counts_tests_and_modules() -> None:
    items = [
        types.SimpleNamespace(nodeid=nodeid, fixturenames=names)
        for nodeid, names in (
            ("a.py::t1", ["qa_container", "qa_container_module"]),
            ("a.py::t2", ["qa_container_module", "qa_container_module"]),
            ("b.py::T::t3", ["qa_container", "qa_container_module"]),
            ("c.py::t4", []),
        )
    ]

    def request(scope: str) -> Any:
        return types.SimpleNamespace(scope=scope, session=types.SimpleNamespace(items=items))

    demand = Demand()
    assert demand.left(request("session"), "qa_container_session") == 0
    assert [demand.left(request("function"), "qa_container") for _ in range(3)] == [1, 0, -1]
    assert [demand.left(request("module"), "qa_container_module") for _ in range(2)] == [1, 0]
    assert demand.left(request("function"), "never heard of") == -1
    turns = [Demand().turn(request("function"), "qa_container"), demand.turn(request("module"), "x")]
    assert [turn[1] for turn in turns] == [1, -1]
    assert demand.turn(request("module"), "x")[0] == 2
