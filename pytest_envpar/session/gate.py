"""``--env-drift``: compare environments in a run, and fail the run where they drift apart too far."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar import options
from pytest_envpar.config import find_config, load_settings
from pytest_envpar.drift.policy import Policy, unused
from pytest_envpar.errors import ConfigError, EngineError, EnvparError
from pytest_envpar.images import locking
from pytest_envpar.reports import drift_junit, drift_text
from pytest_envpar.session import hooks, sides
from pytest_envpar.session.comparing import Answer, Comparer, engine_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from pytest_envpar.config.model import Settings
    from pytest_envpar.drift.findings import Drift, FailOn
    from pytest_envpar.engine.api import Engine

LIMIT = 20
_MADE_LATER = ("file:", "image:", "container:")
_DECIDABLE = (int(pytest.ExitCode.OK), int(pytest.ExitCode.NO_TESTS_COLLECTED))


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is compared, and what for."""

    settings: Settings | None
    pairs: tuple[tuple[str, str], ...]
    fail_on: FailOn
    every: bool
    """Whether these are all pairs of the configuration, so that an allowance may be called unused."""


def asked(config: pytest.Config) -> Asked | None:
    """What the command line wants compared; None if it wants nothing.

    Raises:
        UsageError: A pair is none, a name in one means nothing, or the configuration names none.
    """
    given: Sequence[str | None] | None = getattr(config.option, options.DRIFT.dest, None)
    if not given:
        return None
    file = find_config(config.rootpath) or find_config(config.invocation_params.dir)
    settings = load_settings(file) if file is not None else None
    configured = settings.drift.compare if settings is not None else ()
    found: dict[tuple[str, str], None] = {}
    for value in given:
        if value:
            found[sides.split_pair(value)] = None
            continue
        if not configured:
            raise ConfigError(
                f"{options.DRIFT.name}: nothing says what to compare",
                hint=f'write {options.DRIFT.name}=A..B, or compare = [["A", "B"]] into the table drift',
            )
        found |= dict.fromkeys(configured)
    _check_names(config, settings, found)
    fail_on: Any = settings.drift.fail_on if settings is not None else "package"
    return Asked(settings, tuple(found), fail_on, bool(configured) and set(configured) <= set(found))


def _check_names(config: pytest.Config, settings: Settings | None, pairs: Iterable[tuple[str, str]]) -> None:
    """UsageError for a name that means nothing: now, and not when all tests have run.

    What its prefix says to be a file, an image or a container may still be made by the run. An engine that fails now is
    asked again at the end.
    """
    wanted = dict.fromkeys(name for pair in pairs for name in pair)
    with contextlib.ExitStack() as resources:

        def connect() -> Engine:
            if not made:
                made.append(engine_of(settings, _engine_url(config)))
                resources.callback(made[0].close)
            return made[0]

        made: list[Engine] = []
        for name in wanted:
            if not name.startswith(_MADE_LATER):
                with contextlib.suppress(EngineError):
                    sides.parse(name, settings, Path(config.invocation_params.dir), connect)


def _engine_url(config: pytest.Config) -> str | None:
    urls = getattr(config.option, options.ENGINE.dest, None)
    return urls[0] if urls else None


def register(config: pytest.Config) -> None:
    """Add the gate to a run that asks for it, except in the worker processes of pytest-xdist and without tests to run.

    Raises:
        pytest.UsageError: What is asked for cannot be.
    """
    if hasattr(config, "workerinput") or any(getattr(config.option, name, False) for name in options.PASSIVE):
        return
    try:
        wanted = asked(config)
    except EnvparError as error:
        raise pytest.UsageError(*error.lines()) from None
    if wanted is not None and not config.option.collectonly:
        config.pluginmanager.register(Gate(config, wanted), "envpar-gate")


class Gate:
    """One run's comparisons. It changes once: when they are made at the end of the session."""

    def __init__(self, config: pytest.Config, wanted: Asked) -> None:
        self._config = config
        self._asked = wanted
        self._answers: list[Answer] = []
        self._errors: dict[tuple[str, str], EnvparError] = {}
        self._unwritten: EnvparError | None = None
        self._failed: list[Drift] = []

    @property
    def settings(self) -> Settings | None:
        """The project's configuration, if there is one."""
        return self._asked.settings

    @property
    def fail_on(self) -> FailOn:
        """The level that fails the run."""
        return self._asked.fail_on

    @property
    def drifts(self) -> tuple[Drift, ...]:
        """What the comparisons found."""
        return tuple(answer.drift for answer in self._answers)

    @property
    def errors(self) -> tuple[str, ...]:
        """Why comparisons could not be made."""
        return tuple(f"{left}..{right}: {error.message}" for (left, right), error in self._errors.items())

    @pytest.hookimpl(tryfirst=True, hookwrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, None]:
        """Compare before anything is told, and have the last word."""
        stopped = int(session.exitstatus) not in (*_DECIDABLE, int(pytest.ExitCode.TESTS_FAILED))
        if not stopped:
            self._compare()
        yield
        if stopped:
            return
        # The run of a stage has its status from inside, where nothing is known of the gate.
        if self._errors:
            engine = any(isinstance(error, EngineError) for error in self._errors.values())
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR if engine else pytest.ExitCode.USAGE_ERROR
        elif self._failed and int(session.exitstatus) in _DECIDABLE:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self._write_junit()
        self._last_word()

    def _compare(self) -> None:
        wanted = self._asked
        settings = wanted.settings
        hook = self._config.hook
        today = dt.datetime.now(tz=dt.timezone.utc).astimezone().date()
        try:
            from pytest_envpar.config.model import DriftPolicy

            policy = Policy.of(settings.drift if settings is not None else DriftPolicy(), today)
            comparer = Comparer(
                settings,
                Path(self._config.invocation_params.dir),
                engine=_engine_url(self._config),
                formats=hooks.formats(hook),
                mode=locking.mode_of(
                    os.environ, frozen=bool(getattr(self._config.option, options.FROZEN.dest, False))
                ),
                classify=hooks.classifier(hook),
            )
        except EnvparError as error:
            self._errors = dict.fromkeys(wanted.pairs, error)
            return
        with contextlib.closing(comparer):
            for pair in wanted.pairs:
                # What one pair is about says nothing of the others.
                try:
                    self._answers.append(comparer.answer(*pair, policy))
                except EnvparError as error:
                    self._errors[pair] = error
        if wanted.every and self._answers and not self._errors:
            differing = [
                change
                for answer in self._answers
                for change in (*(finding.change for finding in answer.drift.packages), *answer.drift.allowed)
            ]
            last = self._answers[-1]
            drift = dataclasses.replace(
                last.drift, allowances=(*last.drift.allowances, *unused(policy, differing))
            )
            self._answers[-1] = dataclasses.replace(last, drift=drift)
        for answer in self._answers:
            hooks.found(hook, answer.drift)
        self._failed = [answer.drift for answer in self._answers if answer.drift.fails(wanted.fail_on)]

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """What the comparisons found, in a section of its own."""
        if not self._answers or terminalreporter.verbosity < -1:
            return
        terminalreporter.section("drift")
        for answer in self._answers:
            lines = drift_text.render(
                answer.drift,
                limit=LIMIT,
                verbose=terminalreporter.verbosity > 0,
                show_hidden=terminalreporter.verbosity > 1,
                colour=bool(terminalreporter.hasmarkup),
                diffs=answer.diffs if terminalreporter.verbosity > 0 else None,
            )
            for line in lines:
                terminalreporter.write_line(line)

    def _last_word(self) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            return
        errors = (*self._errors.values(), *(() if self._unwritten is None else (self._unwritten,)))
        for told in dict.fromkeys(tuple(error.lines()) for error in errors):
            for line in told:
                reporter.write_line(f"envpar: drift gate: {line}", red=True)
        for drift in self._failed:
            text = f"envpar: drift gate failed (fail-on {self._asked.fail_on}): {drift_text.headline(drift)}"
            reporter.write_line(text, red=True)

    def _write_junit(self) -> None:
        path = getattr(self._config.option, "xmlpath", None)
        if not path:
            return
        cases = [drift_junit.case(answer.drift, self._asked.fail_on) for answer in self._answers]
        cases += [drift_junit.broken(left, right, error) for (left, right), error in self._errors.items()]
        try:
            drift_junit.add(Path(os.path.expanduser(os.path.expandvars(path))), cases)  # noqa: PTH111
        except (OSError, SyntaxError) as error:
            self._unwritten = EnvparError(f"{path}: the gate could not be added: {error}")
