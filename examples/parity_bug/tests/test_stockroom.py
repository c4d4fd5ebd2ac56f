from __future__ import annotations

from pathlib import Path

import pytest
from stockroom import OutOfStock, Stockroom


def test_deliveries_add_up(stockroom: Stockroom) -> None:
    stockroom.receive("bolt-m6", 20)
    assert stockroom.level("bolt-m6") == 120


def test_unknown_article_has_no_stock(stockroom: Stockroom) -> None:
    assert stockroom.level("gear") == 0


@pytest.mark.parametrize("quantity", [0, -1])
def test_an_empty_delivery_is_refused(stockroom: Stockroom, quantity: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        stockroom.receive("bolt-m6", quantity)


def test_reserving_takes_from_the_stock(stockroom: Stockroom) -> None:
    assert stockroom.reserve("bolt-m6", 30, customer="Ada") == 70
    assert stockroom.level("bolt-m6") == 70
    assert list(stockroom.reservations("Ada")) == [("bolt-m6", 30)]


def test_more_than_there_is_cannot_be_reserved(stockroom: Stockroom) -> None:
    with pytest.raises(OutOfStock, match="fewer than 41 of nut-m6"):
        stockroom.reserve("nut-m6", 41, customer="Ada")
    assert stockroom.level("nut-m6") == 40


def test_low_stock_is_listed_scarcest_first(stockroom: Stockroom) -> None:
    assert stockroom.low(50) == ["washer-m6", "nut-m6"]


def test_stock_survives_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "stock.db")
    first = Stockroom(path)
    first.receive("bolt-m6", 7)
    first.close()
    second = Stockroom(path)
    assert second.level("bolt-m6") == 7
    second.close()
