"""Containers that are started before they are asked for: while one test uses its own, the next one's is made."""

from __future__ import annotations

import collections
import threading
from typing import TYPE_CHECKING, NamedTuple

from pytest_envpar.errors import EngineError

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Hashable

    from pytest_envpar.containers.handle import Container
    from pytest_envpar.containers.recipe import Recipe


class Turn(NamedTuple):
    """Who asks for a container that nobody has announced.

    Args:
        asker: Tells tests apart.
        more: How many tests might ask for one after this one.
    """

    asker: int
    more: int


NOBODY = Turn(0, 0)
"""For what is asked for once."""

DEEPEST = 4
"""How many of one kind are started ahead at most; more only take processor time from the tests."""


class Ahead:
    """Any number of threads may use it. It changes: it knows what was asked for so far.

    Args:
        start: Starts a container now.
        submit: Has one started by another thread; ``None`` if no more are to be started.
    """

    def __init__(
        self,
        start: Callable[[Recipe], Container],
        submit: Callable[[Recipe], concurrent.futures.Future[Container] | None],
    ) -> None:
        self._start = start
        self._submit = submit
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, collections.deque[concurrent.futures.Future[Container]]] = {}
        self._depths: dict[Hashable, int] = {}
        self._askers: dict[Hashable, int] = {}

    def take(self, key: Hashable, recipe: Recipe, more: int) -> Container:
        """A container that was started ahead under ``key``, or one that is started now.

        Args:
            more: How many are going to be asked for after this one. Of these one is started while this one is used, and
                some more where tests turn out to be faster than the engine.
        """
        with self._lock:
            waiting = self._waiting.setdefault(key, collections.deque())
            first = waiting.popleft() if waiting else None
            depth = self._depths.setdefault(key, 1)
            if first is not None and not first.done():
                depth = self._depths[key] = min(depth + 1, DEEPEST)
        container = self._start(recipe) if first is None else self._waited(first, recipe)
        with self._lock:
            while len(waiting) < min(more, depth) and (one := self._submit(recipe)) is not None:
                waiting.append(one)
        return container

    def likely(self, key: Hashable, recipe: Recipe, turn: Turn) -> Container:
        """The same for what nobody has announced: what a second test asks for, too, is started ahead for a third."""
        with self._lock:
            known = self._askers.get(key, turn.asker) != turn.asker
            self._askers[key] = turn.asker
        return self.take(key, recipe, turn.more if known else 0)

    def _waited(self, first: concurrent.futures.Future[Container], recipe: Recipe) -> Container:
        try:
            return first.result()
        except EngineError:
            # That was the engine a while ago; what is wrong with it now is told by another try.
            return self._start(recipe)

    def futures(self) -> list[concurrent.futures.Future[Container]]:
        """All that nobody has asked for so far."""
        with self._lock:
            return [future for waiting in self._waiting.values() for future in waiting]
