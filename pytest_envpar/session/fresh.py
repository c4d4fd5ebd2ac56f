"""``--env-fresh``: how tests are shared out between containers, and the container that is started ahead."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
from typing import TYPE_CHECKING, Literal

from pytest_envpar.errors import EnvparError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_envpar.worker.start import Site

Scope = Literal["session", "module", "test"]


def turn(scope: Scope, index: int, nodeid: str) -> object:
    """What tests have in common that run in one container; tests of one turn follow each other.

    Args:
        index: The test's place in the collection.
        nodeid: Its node id as the inside knows it.
    """
    if scope == "session":
        return None
    return index if scope == "test" else nodeid.partition("::")[0]


def first_turn(scope: Scope, indices: Sequence[int], nodeids: Sequence[str]) -> list[int]:
    """Those of ``indices`` that one container runs before the next takes over."""
    if not indices:
        return []
    key = turn(scope, indices[0], nodeids[indices[0]])
    return list(itertools.takewhile(lambda index: turn(scope, index, nodeids[index]) == key, indices))


class Fresh:
    """Starts the next container while the current one is used, and removes the last beside it.

    It changes with each container, and owns what it has started until that is taken.

    Args:
        start: Starts a container, in a thread.
    """

    def __init__(self, start: Callable[[], Site]) -> None:
        self._start = start
        self._next: concurrent.futures.Future[Site] | None = None
        self._last: concurrent.futures.Future[None] | None = None
        self._starting = concurrent.futures.ThreadPoolExecutor(1, "envpar-next")
        self._removing = concurrent.futures.ThreadPoolExecutor(1, "envpar-last")

    def prepare(self, greet: Callable[[Site], None]) -> None:
        """Begin to start the next container, unless that is done already; returns at once.

        Args:
            greet: Called with it, in a thread: lets it get as far as it can.
        """

        def started() -> Site:
            site = self._start()
            greet(site)
            return site

        if self._next is None:
            self._next = self._starting.submit(started)

    def take(self, greet: Callable[[Site], None]) -> Site:
        """The next container. Raises EnvparError if it could not be started."""
        self.prepare(greet)
        assert self._next is not None
        future, self._next = self._next, None
        return future.result()

    def see_off(self, site: Site, look: Callable[[Site], None]) -> None:
        """Have a last look at a container, and remove it, in the order of the calls; returns at once."""

        def part() -> None:
            try:
                look(site)
            finally:
                with contextlib.suppress(EnvparError):  # the next run removes what cannot be removed now
                    site.close()

        self._last = self._removing.submit(part)

    def settle(self) -> None:
        """Wait until all that was to be removed is."""
        if self._last is not None:
            self._last.result()

    def drop(self) -> None:
        """Remove what was not taken."""
        future, self._next = self._next, None
        if future is not None and not future.cancel():
            with contextlib.suppress(EnvparError):
                future.result().close()

    def close(self) -> None:
        """Remove what was not taken, and wait for all of it."""
        self.drop()
        self._starting.shutdown()
        self._removing.shutdown()
