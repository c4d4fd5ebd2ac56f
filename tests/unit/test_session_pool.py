"""Which engine of a pool is used, and what is said of those that are lost."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from pytest_envpar.errors import ConnectionLostError, NoEngineError
from pytest_envpar.session import pool
from pytest_envpar.session.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAMES = ("tcp://a:1", "tcp://b:1", "tcp://c:1")


@dataclasses.dataclass
class Stub:
    """As much of an engine as a pool looks at."""

    name: str
    dead: set[str]

    def inspect_volume(self, _: str) -> None:
        if self.name in self.dead:
            raise ConnectionLostError(f"volume: {self.name} is gone")

    def close(self) -> None:
        pass


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The engines that do not answer."""
    dead: set[str] = set()

    def select(names: Sequence[str], _: Mapping[str, str], __: object) -> Stub:
        for name in names:
            if name not in dead:
                return Stub(name, dead)
        raise NoEngineError("no engine", detail=(f"{names[0]}: no such socket",))

    monkeypatch.setattr(pool, "select_engine", select)
    return dead


def made(turn: int = 0) -> Pool:
    return Pool(NAMES, {}, lambda _: None, turn)


def taken(of: Pool) -> str:
    engine = of.take()
    assert isinstance(engine, Stub)
    return engine.name


def test_in_turn(dead: set[str]) -> None:
    assert [taken(made(turn)) for turn in range(5)] == [*NAMES, *NAMES[:2]]
    assert not Pool(["docker", "docker"], {}, lambda _: None).several


def test_one_that_does_not_answer_is_passed_over_and_told(dead: set[str]) -> None:
    dead.add("tcp://b:1")
    several = made(1)
    assert taken(several) == "tcp://c:1"
    assert several.lost == {"tcp://b:1": "no such socket"}
    assert pool.lines(several.lost) == ["engine tcp://b:1 was lost: its share ran elsewhere (no such socket)"]
    dead.update(NAMES)
    with pytest.raises(NoEngineError, match="tried 3") as caught:
        made().take()
    assert len(caught.value.detail) == 3


def test_the_first_that_answers_decides_what_a_stage_is(dead: set[str]) -> None:
    several = made(2)
    assert [each.name for each in several.homes(several.take()) if isinstance(each, Stub)] == list(NAMES)
    first = made()
    engine = first.take()
    assert next(first.homes(engine)) is engine
    assert [each.name for each in first.others() if isinstance(each, Stub)] == list(NAMES[1:])


def test_a_loss_is_blamed_on_the_engine_that_is_gone(dead: set[str]) -> None:
    several = made(1)
    engine = several.take()
    next(several.homes(engine))
    assert not several.gone(engine)
    dead.add("tcp://a:1")  # where the image was to come from
    assert several.lose(engine, ConnectionLostError("image: gone"))
    assert list(several.lost) == ["tcp://a:1"]
    dead.add("tcp://b:1")
    assert several.gone(engine)
    assert several.lose(engine, ConnectionLostError("container: gone"))
    assert taken(several) == "tcp://c:1"
    dead.add("tcp://c:1")
    with pytest.raises(NoEngineError):
        several.take()


def test_one_engine_is_no_pool(dead: set[str]) -> None:
    alone = Pool(NAMES[:1], {}, lambda _: None)
    engine = alone.take()
    assert list(alone.homes(engine)) == [engine]
    assert alone.others() == []
    assert not alone.gone(engine)
    assert not alone.lose(engine, ConnectionLostError("gone"))
    assert alone.lost == {}
