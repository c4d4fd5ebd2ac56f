"""The engines of a run: which one a stage or a worker uses, and what happens when one goes away.

Several engines are a pool. Stages, and workers of pytest-xdist, take them in turn. What a stage is gets decided on the
first one that answers, so that all run the same bytes; the others are brought its images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_envpar.engine.select import select_engine
from pytest_envpar.engine.translate import redacted
from pytest_envpar.errors import ConnectionLostError, EngineError, NoEngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from pytest_envpar.engine.api import Engine

_NO_VOLUME = "pytest-envpar-is-there-an-engine"


class Pool:
    """Knows which engines are lost; changes with each loss.

    Args:
        names: The engines as configured, at least one.
        environ: The user's environment.
        told: Takes a line where the user's environment names an engine that is of no use.
        turn: Whose turn it is: of the first user the first engine, of the next one the next.
    """

    def __init__(
        self,
        names: Sequence[str],
        environ: Mapping[str, str],
        told: Callable[[str], object],
        turn: int = 0,
    ) -> None:
        self.names = tuple(dict.fromkeys(names))
        self.lost: dict[str, str] = {}
        """Engines that do not answer, or not any more, and why."""
        self._environ = environ
        self._told = told
        self._turn = turn % len(self.names)
        self._current = ""
        self._home = ""

    @property
    def several(self) -> bool:
        """Whether there is more than one engine."""
        return len(self.names) > 1

    def take(self) -> Engine:
        """The engine whose turn it is, or the next one that answers.

        Raises:
            NoEngineError: None answers.
            UsageError: One is not an engine.
        """
        if not self.several:
            return select_engine(self.names, self._environ, self._told)
        for name in (*self.names[self._turn :], *self.names[: self._turn]):
            engine = self._connected(name)
            if engine is not None:
                self._current = name
                return engine
        raise NoEngineError(
            f"no engine of the pool answers; tried {len(self.names)}:",
            detail=tuple(f"{shown(name)}: {why}" for name, why in self.lost.items()),
            hint="see whether the engines run at these addresses: `envpar doctor`",
        )

    def homes(self, engine: Engine) -> Generator[Engine, None, None]:
        """The engines on which a stage may be resolved, one of which is ``engine`` itself; it is the first that has
        the stage's image, or can get it. Others are closed when the next one is asked for.

        Args:
            engine: What :meth:`take` returned.
        """
        if not self.several:
            yield engine
            return
        for name in self.names:
            found = engine if name == self._current else self._connected(name)
            if found is not None:
                self._home = name
                try:
                    yield found
                finally:
                    if found is not engine:
                        found.close()

    def others(self) -> list[Engine]:
        """The rest of the pool, as far as it answers. The caller closes them."""
        rest = (self._connected(name) for name in self.names if name != self._current) if self.several else ()
        return [engine for engine in rest if engine is not None]

    def gone(self, engine: Engine) -> bool:
        """Whether ``engine`` is lost while another one can take over."""
        return len(set(self.names) - set(self.lost)) > 1 and not answers(engine)

    def lose(self, engine: Engine, error: EngineError) -> bool:
        """Note which engine an error is of; whether there is another one to go on with.

        Args:
            engine: The engine in use, from :meth:`take`.
            error: What was raised by it, or by the one that it was to get an image from.
        """
        if not self.several:
            return False
        name = self._home if answers(engine) and self._home != self._current else self._current
        self.lost[name] = error.message
        return len(self.lost) < len(self.names)

    def _connected(self, name: str) -> Engine | None:
        if name in self.lost:
            return None
        try:
            return select_engine((name,), self._environ, self._told)
        except NoEngineError as error:
            self.lost[name] = (error.detail or (error.message,))[0].rpartition(": ")[2]
        return None


def answers(engine: Engine) -> bool:
    """Whether an engine is there at all."""
    try:
        engine.inspect_volume(_NO_VOLUME)
    except ConnectionLostError:
        return False
    except EngineError:
        pass
    return True


def shown(name: str) -> str:
    """An engine's name without credentials."""
    return redacted(name)


def lines(lost: Mapping[str, str]) -> list[str]:
    """What a run says at its end of engines that it had to do without."""
    return [f"engine {shown(name)} was lost: its share ran elsewhere ({why})" for name, why in lost.items()]
