"""``--env-reuse`` in one stage of a run: the container that waits is taken, and one is left for the next run."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pytest_envpar.errors import ConnectionLostError, EngineError, EnvparError
from pytest_envpar.worker import warm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pytest_envpar.worker.start import Ground, Site


class Reuse:
    """Changes as the run goes on; ``close`` waits for what it has begun.

    Args:
        environ: The host's environment.
        folder: Where locks are (host).
        tell: Takes a line for the user.
    """

    def __init__(self, environ: Mapping[str, str], folder: Path, tell: Callable[[str], object]) -> None:
        self.taken = False
        """Whether the run is in a container that waited for it."""
        self._environ = environ
        self._folder = folder
        self._tell = tell
        self._ground: Ground | None = None
        self._threads: list[threading.Thread] = []
        self._leaving = False

    def take(self, ground: Ground) -> Site | None:
        """The container that waits for this run; ``None``, and a line that says why, where one has to be started.

        Raises:
            ConnectionLostError: The engine is gone, with which nothing can be started either.
        """
        obstacle = warm.obstacle(ground)
        if obstacle is not None:
            self._tell(f"stage {ground.stage.name}: no warm container: {obstacle}")
            return None
        self._ground = ground
        try:
            site = warm.take(ground, self._environ, self._folder)
        except warm.RefusedError as error:
            self._tell(f"stage {ground.stage.name}: the warm container is replaced: {error}")
            self._begin(error.container.remove)
            return None
        except ConnectionLostError:
            raise
        except EngineError as error:  # somebody removed it just now: the next run may have one again
            self._tell(f"stage {ground.stage.name}: no warm container: {error.message}")
            return None
        except (
            OSError
        ) as error:  # a lock that is not to be had now is none for the next run's container either
            self._ground = None
            self._tell(f"stage {ground.stage.name}: no warm container: {error}")
            return None
        self.taken = site is not None
        return site

    def leave(self) -> None:
        """Begin to start a container for the next run, once; returns at once."""
        if self._ground is not None and not self._leaving:
            self._leaving = True
            self._begin(self._leave)

    def _leave(self) -> None:
        assert self._ground is not None
        try:
            warm.leave(self._ground, self._environ, self._folder)
        except (EnvparError, OSError) as error:
            why = error.message if isinstance(error, EnvparError) else error
            self._tell(f"stage {self._ground.stage.name}: no warm container for the next run: {why}")

    def _begin(self, work: Callable[[], object]) -> None:
        thread = threading.Thread(target=work, name="envpar-warm")
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        """Wait for all that was begun. Safe to repeat."""
        threads, self._threads = self._threads, []
        for thread in threads:
            thread.join()
