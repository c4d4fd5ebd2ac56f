"""From what was asked to a container that is being started, beside the host's own start-up: both have work to do."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from pytest_envpar import options, userfiles
from pytest_envpar.config import check_stage, find_config, get_stage, load_settings
from pytest_envpar.errors import ConfigError, EnvparError, UsageError
from pytest_envpar.session import suffix
from pytest_envpar.session.signals import Signals
from pytest_envpar.session.stage_place import StagePlaces

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_envpar.config.model import Settings, Stage
    from pytest_envpar.images.locking import Mode

T = TypeVar("T")

Owned = Callable[[Callable[[], None]], object]
"""Takes what removes a stage's containers, before there are any: a signal may come at any moment."""

CANCEL_S = 10.0


class Ahead(Generic[T]):
    """Runs ``work`` in a thread once started; ``result`` waits for it and raises what it raised.

    A thread and not a process, because what is started is handed over. Whatever it has made when the host leaves early
    is taken over and removed by the caller of ``abandon``.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._value: list[T] = []
        self._error: BaseException | None = None
        # Not Thread.join: interrupted by a signal it takes the thread for ended (Python 3.10).
        self._ended = threading.Event()
        # Whoever is first of the work and of who gives it up; a signal may give it up while it is given up.
        self._turn = threading.RLock()
        self._begun = self._given_up = False
        self._thread = threading.Thread(target=self._run, name="envpar-start", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._turn:
                if self._given_up:
                    raise RuntimeError("given up before it began")
                self._begun = True
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
        """Wait until the work has ended in one way or the other; False if it has not when the time is up.

        What has not begun never will.
        """
        with self._turn:
            if not self._begun:
                self._given_up = True
                return True
        return self._ended.wait(timeout_s)


@dataclasses.dataclass(frozen=True)
class Launch:
    """A stage whose first container is being started. Owns all of it until ``end``.

    Args:
        engine: The engine's URL if the command line named one.
        lock: How strictly the lock file binds, if the command line says.
        signals: Handlers that are in place already: from here on there is something to remove.
    """

    settings: Settings
    stage: Stage
    engine: str | None
    lock: Mode | None
    places: StagePlaces
    signals: Signals
    ahead: Ahead[None]

    @classmethod
    def begin(
        cls,
        settings: Settings,
        stage: Stage,
        engine: str | None,
        lock: Mode | None = None,
        signals: Signals | None = None,
        *,
        owned: Owned,
        only_prepare: bool = False,
        turn: int = 0,
        reuse: bool = False,
    ) -> Launch:
        """Start the first container of ``stage``; returns at once.

        Args:
            owned: See :data:`Owned`.
            turn: Which engine of a pool it is the turn of.
            only_prepare: Start none, but have everything ready for the containers of other processes.
            reuse: Take one that waits for this run, if there is one, and leave one for the next.
            signals: The handlers of the run, if it has begun with another stage.
        """
        signals = signals or Signals(f"stage {stage.name}")
        places = StagePlaces(
            settings, stage, engine, userfiles.cache_dir(), dict(os.environ), lock, turn, reuse=reuse
        )
        ahead = Ahead(places.prepare if only_prepare else places.begin)
        made = cls(settings, stage, engine, lock, places, signals, ahead)
        owned(made.close)
        signals.take()
        ahead.start()
        return made

    def serves(self, settings: Settings, stage: Stage, engine: str | None, lock: Mode | None) -> bool:
        """Whether this is what is wanted."""
        begun = (self.settings.file, self.settings.coverage, self.stage.name, self.engine, self.lock)
        return begun == (settings.file, settings.coverage, stage.name, engine, lock)

    def end(self) -> None:
        """Remove everything, also what is only being made. Safe to repeat."""
        self.signals.phase = "ending"
        if not self.ahead.abandon(0):
            self.places.cancel()
            if not self.ahead.abandon(CANCEL_S):
                sys.stderr.write("envpar: the engine is still busy; the next run removes what it leaves\n")
        self.places.close()

    def close(self) -> None:
        """``end``, and the process is as it was."""
        self.end()
        self.signals.restore()


def begin(
    settings: Settings,
    stages: Sequence[Stage],
    engine: str | None,
    lock: Mode | None = None,
    *,
    owned: Owned,
    only_prepare: bool = False,
    first: int = 0,
    reuse: bool = False,
) -> tuple[Launch, ...]:
    """Start the first containers of all ``stages`` at once, or only prepare that; returns at once, too.

    Args:
        owned: See :data:`Owned`.
        first: Which engine of a pool it is the turn of.
    """
    launched: list[Launch] = []
    for turn, stage in enumerate(stages, first):
        signals = launched[0].signals if launched else None
        more = {"only_prepare": only_prepare, "reuse": reuse}
        made = Launch.begin(settings, stage, engine, lock, signals, owned=owned, turn=turn, **more)
        launched.append(made)
    return tuple(launched)


def end_all(launched: Sequence[Launch]) -> None:
    """Remove everything, of all stages at once."""
    threads = [
        threading.Thread(target=each.end, name=f"envpar-removal-{each.stage.name}") for each in launched
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def asked(stages: tuple[Stage, ...], words: Sequence[str]) -> tuple[Stage, ...]:
    """Those of ``stages`` that a command line's node ids leave in the run.

    Args:
        words: What pytest takes for paths and node ids; see :mod:`~pytest_envpar.session.suffix`.
    """
    names = [stage.name for stage in stages]
    return tuple(stage for stage in stages if suffix.is_asked(words, stage.name, names))


def configured(root: Path, here: Path, request: options.Request) -> tuple[Settings, tuple[Stage, ...]]:
    """The project's configuration and the stages that were asked for.

    Args:
        root: pytest's root (host): where the search begins.
        here: The working directory (host).

    Raises:
        UsageError: There is no such stage, or its configuration is wrong.
    """
    # A path outside on the command line moves pytest's root out, too; it is told later, with the project's name.
    file = find_config(root) or find_config(here)
    if file is None:
        raise ConfigError(
            f"{request.origin}: no stages are configured: neither envpar.toml nor [tool.envpar] in pyproject.toml "
            f"was found in {root} or above",
            hint=f"add a table [tool.envpar.stages.{request.stages[0].replace(options.ALL, 'dev')}] with an image; "
            "see `envpar init`",
        )
    settings = load_settings(file)
    if request.engines:
        settings = dataclasses.replace(settings, engines=request.engines)
    names = tuple(settings.stages) if request.stages == (options.ALL,) else request.stages
    if not names:
        raise ConfigError(
            f"{request.origin}: no stages are configured in {file}", hint="add a stage; see `envpar init`"
        )
    stages = tuple(get_stage(settings, name) for name in names)
    for stage in stages:
        check_stage(stage)
    if here != settings.root and settings.root not in here.parents:
        raise UsageError(
            f"{request.origin}: the working directory {here} is outside of the project {settings.root}",
            hint="run pytest inside the project: what lies outside is not in the container",
        )
    return settings, stages


def early(args: Sequence[str], owned: Owned, environ: Mapping[str, str] | None = None) -> Launch | None:
    """Begin before pytest is imported, where the command line leaves no doubt about the stage.

    What it begins is a guess: pytest's own reading of the command line comes later and decides. Whatever is wrong is
    left for then, so that it is told in one way only.

    Args:
        args: The command line for pytest.
        owned: See :data:`Owned`.
        environ: The environment; this process's own by default.
    """
    reuse = options.REUSE.name in args
    ours = [arg for arg in args if arg.startswith("--env") and arg != options.REUSE.name]
    named = [arg.partition("=") for arg in ours]
    plain = all(name in (options.SHORT.name, options.STAGE.name) and value for name, _, value in named)
    passive = {"-h", "--help", "--version", "-V", "--markers", "--"}
    spread = any(arg.startswith(("-n", "-d", "--numprocesses", "--dist", "--tx")) for arg in args)
    if len(named) != 1 or not plain or spread or passive.intersection(args):
        return None
    if "--env" in (os.environ if environ is None else environ).get("PYTEST_ADDOPTS", ""):
        return None
    here = Path.cwd()
    try:
        request = options.Request((named[0][2],), ours[0], None, tuple(args), module=False)
        settings, stages = configured(here, here, request)
    except (EnvparError, OSError):
        return None
    if any(arg.startswith("--cov") for arg in args):
        settings = dataclasses.replace(settings, coverage="--no-cov" not in args)
    return Launch.begin(settings, stages[0], None, owned=owned, reuse=reuse) if len(stages) == 1 else None
