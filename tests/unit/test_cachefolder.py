"""A cache folder that cannot be used is told as such, wherever it is needed first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.containers import cachefolder, idle
from pytest_envpar.errors import UsageError
from pytest_envpar.worker import dists

if TYPE_CHECKING:
    from collections.abc import Callable

NOWHERE = Path("/dev/null/pytest-envpar")
ENGINE: Any = SimpleNamespace(info=SimpleNamespace(id="1", url="u"))
NOTHING: Any = None
PINS = dists.Choice({"pytest": "8.4.2"}, frozenset({"pytest"}))


@pytest.mark.parametrize(
    "need",
    [
        lambda: dists.sources(PINS, (3, 9, 2), NOWHERE),
        lambda: idle.ensure(ENGINE, "amd64", "image", {}, NOWHERE),
    ],
    ids=["wheels", "idle"],
)
def test_it_cannot_be_made(need: Callable[[], object]) -> None:
    with pytest.raises(
        UsageError, match=r"^the cache folder /dev/null/pytest-envpar/.* cannot be used"
    ) as told:
        need()
    assert "XDG_CACHE_HOME" in str(told.value.hint)


def test_it_is_made(tmp_path: Path) -> None:
    for _ in range(2):
        cachefolder.make(tmp_path / "a/b")
    assert list((tmp_path / "a/b").iterdir()) == []
