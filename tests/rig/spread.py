"""How the tests are spread over the workers of pytest-xdist."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    import pytest
    from xdist.remote import Producer

WHOLE = ("parity", "plugins", "pool", "registry")
"""Rings that stay together on one worker: what all their tests need takes longer to make than a test."""


class Rings(LoadScopeScheduling):  # type: ignore[misc]
    """Whole rings or files go to the workers, in the order of collection: the quick tests of ``unit`` come last."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        ring = file.removeprefix("tests/").partition("/")[0]
        return ring if ring in WHOLE else file
