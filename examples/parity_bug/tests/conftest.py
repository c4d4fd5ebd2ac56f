from __future__ import annotations

from collections.abc import Iterator

import pytest
from stockroom import Stockroom


@pytest.fixture
def stockroom() -> Iterator[Stockroom]:
    room = Stockroom()
    room.receive("bolt-m6", 100)
    room.receive("nut-m6", 40)
    room.receive("washer-m6", 3)
    yield room
    room.close()
