"""The first container is started beside the host's own start-up: both have work to do."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Ahead(Generic[T]):
    """Runs ``work`` in a thread at once; ``result`` waits for it and raises what it raised.

    A thread and not a process, because what is started is handed over. Whatever it has made when the host leaves early
    is taken over and removed by the caller of ``abandon``.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._value: list[T] = []
        self._error: BaseException | None = None
        # Not Thread.join: interrupted by a signal it takes the thread for ended (Python 3.10).
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="envpar-start", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value.append(self._work())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asks
            self._error = error
        finally:
            self._ended.set()

    def result(self) -> T:
        """Wait for the work and return what it made."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._value[0]

    def abandon(self, timeout_s: float) -> bool:
        """Wait until the work has ended in one way or the other; False if it has not when the time is up."""
        return self._ended.wait(timeout_s)
