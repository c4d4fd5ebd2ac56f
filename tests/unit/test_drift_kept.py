"""Tables of (inode, ctime) in a ledger: those in use stay while others make room, and a broken one is made anew."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_envpar.drift import stat_tables
from pytest_envpar.drift.outside import Outside
from pytest_envpar.drift.produce import Producer
from pytest_envpar.drift.scanners import Scanners
from pytest_envpar.drift.sides import Side
from pytest_envpar.drift.stat_tables import Recorder, Table
from pytest_envpar.engine.values.images import RunConfig
from pytest_envpar.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pytest_envpar.drift.remote import Frame, Listing
    from pytest_envpar.engine.api import Engine

LIMIT = 3 << 20
ENGINE = cast("Engine", SimpleNamespace(info=SimpleNamespace(kind="docker", id="x", rootless=False)))


class Walk:
    """What a scanner says of an image: about half a megabyte that cannot be packed."""

    notes = ()

    def frames(self, _: Sequence[str]) -> Iterator[Frame]:
        numbers = random.Random(0).randbytes(250_000).hex()
        fields = ["/", "d755", "0:0", "", "", "", "", "0", numbers]
        yield b"R", "".join(f"{field}\0" for field in fields).encode()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Scanners, "of", lambda *_: Walk())
    return tmp_path / "ledger.sqlite3"


def side(number: int) -> Side:
    return Side(f"image-{number}", RunConfig(), f"sha256:{number:064x}", ("sha256:a",), ENGINE)


def listed(path: Path, *numbers: int) -> list[Listing]:
    """Listings of these images as a comparison has them, kept afterwards."""
    with Ledger(path, max_bytes=LIMIT) as ledger, contextlib.ExitStack() as stack:
        producer = Producer(ledger.manifests, Outside(), {}, stack)
        found = [producer.listing(side(number)) for number in numbers]
        for listing in found:
            list(listing.frames(()))
            producer.learn(listing)
        assert ledger.room.used_bytes() <= LIMIT
        assert ledger.problems == ()
    return found


def ask(path: Path, statement: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).fetchall()


def test_those_that_are_used_stay(path: Path) -> None:
    listed(path, 0, 1, 2, 3)
    ask(path, "UPDATE manifest SET used = id")  # long ago, in this order
    (oldest,) = listed(path, 0)
    assert isinstance(oldest, Table)
    for number in range(10, 30):
        listed(path, number)
        assert isinstance(listed(path, 0)[0], Table)
        ask(path, f"UPDATE manifest SET used = id WHERE key NOT LIKE '%{side(0).image_id}'")
    # Those that nobody asked for have made room, the latest ones have it.
    kinds = [type(listing) for listing in listed(path, 29, 1, 2, 3, 10)]
    assert kinds == [Table, Recorder, Recorder, Recorder, Recorder]


@pytest.mark.parametrize(
    "broken",
    [
        "UPDATE chunk SET data = zeroblob(length(data))",
        "UPDATE chunk SET crc = 0",
        "DELETE FROM chunk",
        f"UPDATE manifest SET version = {stat_tables.VERSION - 1}",
        f"UPDATE manifest SET version = {stat_tables.VERSION + 1}",
    ],
)
def test_what_is_broken_or_of_another_form_is_made_anew(broken: str, path: Path) -> None:
    listed(path, 0)
    ask(path, broken)
    assert isinstance(listed(path, 0)[0], Recorder)
    assert isinstance(listed(path, 0)[0], Table)


def test_another_engine_and_another_image_have_their_own(path: Path) -> None:
    listed(path, 0)
    other = SimpleNamespace(info=SimpleNamespace(kind="docker", id="y", rootless=False))
    with Ledger(path) as ledger, contextlib.ExitStack() as stack:
        producer = Producer(ledger.manifests, Outside(), {}, stack)
        mine = Side("image-0", RunConfig(), side(0).image_id, ("sha256:a",), cast("Engine", other))
        assert isinstance(producer.listing(mine), Recorder)
        assert isinstance(producer.listing(side(1)), Recorder)
        assert isinstance(producer.listing(side(0)), Table)
        assert isinstance(producer.listing(side(0), fresh=True), Recorder)
