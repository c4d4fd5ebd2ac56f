"""The plugin of a measured run, in the process that reports and in the workers of pytest-xdist."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.errors import UsageError, escaped
from pytest_envpar.session.coverage import asked
from pytest_envpar.session.coverage.gathered import Gathered, Passed, aliases, unpacked

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Mapping, Sequence

    import coverage

    from pytest_envpar.config.model import Settings
    from pytest_envpar.session.coverage.by_coverage import Reporting as ByCoverage
    from pytest_envpar.session.coverage.by_pytest_cov import Reporting as ByPytestCov
    from pytest_envpar.session.coverage.gathered import Sink
    from pytest_envpar.session.link import Place
    from pytest_envpar.worker.tracer import Tracer

NAME = "envpar-coverage"
OUTPUT = "envpar_coverage"
"""Key of a worker's output in pytest-xdist."""
_FINE = (int(pytest.ExitCode.OK), int(pytest.ExitCode.NO_TESTS_COLLECTED))
_SHOWN = 3


def settle(settings: Settings, known: Any, args: Sequence[str]) -> Settings:
    """The configuration with the command line's last word on whether this run is measured.

    Raises:
        UsageError: Two things that measure were asked for.
    """
    return dataclasses.replace(settings, coverage=asked.is_wanted(settings, known, args))


def register(
    config: pytest.Config,
    settings: Settings,
    known: Any,
    args: Sequence[str],
    environ: Mapping[str, str] | os._Environ[str],
    *,
    crew: bool,
) -> None:
    """Register what the run needs, if it is measured.

    Args:
        settings: See :func:`settle`.
        known: pytest's namespace with all that the host knows of the command line.
        args: The command line as the user gave it.
        environ: The host's environment.
        crew: This process is a worker of pytest-xdist.

    Raises:
        UsageError: coverage.py does not like its configuration.
    """
    manager = config.pluginmanager
    asks = asked.by_pytest_cov(known)
    if asks and not crew and getattr(known, "no_cov", False):
        from pytest_envpar.session.coverage import by_pytest_cov

        manager.register(by_pytest_cov.Reporting(known, manager, args), "_cov")  # it says so
    if not settings.coverage:
        return
    from coverage.exceptions import CoverageException

    try:
        if crew:
            manager.register(Crew(_asked(known, _configured(known), environ, crew=True)), NAME)
            return
        reporting: ByCoverage | ByPytestCov
        if asks:
            from pytest_envpar.session.coverage import by_pytest_cov

            reporting = by_pytest_cov.Reporting(known, manager, args)
            manager.register(reporting, "_cov")
        else:
            from pytest_envpar.session.coverage import by_coverage

            reporting = by_coverage.Reporting()
            manager.register(reporting, "envpar-coverage-report")
        wanted = _asked(known, reporting.cov, environ, crew=False)
        gathered = Gathered(
            reporting.data,
            settings.root,
            config.invocation_params.dir,
            aliases(reporting.cov),
            branch=bool(reporting.cov.get_option("run:branch")),
        )
        manager.register(Measuring(config, wanted, gathered, reporting), NAME)
    except CoverageException as error:
        raise UsageError(
            f"coverage: {error}",
            hint="its configuration is what --cov-config names, or .coveragerc, setup.cfg, tox.ini or pyproject.toml",
        ) from error


def _configured(known: Any) -> coverage.Coverage:
    """coverage.py with the configuration that the reporting process has."""
    import coverage

    if not asked.by_pytest_cov(known):
        return coverage.Coverage()
    source = None if True in known.cov_source else list(known.cov_source)
    return coverage.Coverage(source=source, branch=known.cov_branch, config_file=known.cov_config)


def _asked(
    known: Any, cov: coverage.Coverage, environ: Mapping[str, str] | os._Environ[str], *, crew: bool
) -> asked.Asked:
    by_option = asked.by_pytest_cov(known)
    children = "COVERAGE_PROCESS_START" in environ or asked.patches_children(cov)
    if by_option and not children:
        from pytest_envpar.session.coverage import by_pytest_cov

        children = by_pytest_cov.measures_children()
    return asked.Asked(
        cov,
        contexts=by_option and getattr(known, "cov_context", None) == "test",
        whole=not by_option,
        children=children,
        crew=crew,
    )


class _Measured:
    """What a process with workers inside does: tells them what to measure, and takes what they say."""

    def __init__(self, wanted: asked.Asked, sink: Sink) -> None:
        self._asked = wanted
        self._sink = sink

    def options(
        self, place: Place, stage: str, tracer: Tracer, python: tuple[int, int, int], *, several: bool
    ) -> Any:
        """What a worker is told.

        Args:
            stage: The worker's stage.
            tracer: The coverage.py inside.
            python: The Python inside.
            several: The run has several stages.
        """
        return self._asked.options(place, stage if several else None, tracer, python)

    def take(self, stage: str, message: Any, place: Place) -> None:
        """Take what a worker has measured."""
        self._sink.take(stage, message, place.paths.text)


class Crew(_Measured):
    """In a worker of pytest-xdist, which passes on what it was told."""

    def __init__(self, wanted: asked.Asked) -> None:
        self._passed = Passed()
        super().__init__(wanted, self._passed)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hand it over with the rest of the worker's output."""
        output: dict[str, Any] = getattr(session.config, "workeroutput", {})
        output[OUTPUT] = self._passed.output


class Measuring(_Measured):
    """In the process that reports.

    Args:
        gathered: Where all that was measured goes.
        reporting: What reports it.
    """

    def __init__(
        self,
        config: pytest.Config,
        wanted: asked.Asked,
        gathered: Gathered,
        reporting: ByCoverage | ByPytestCov,
    ) -> None:
        super().__init__(wanted, gathered)
        self._config = config
        self._gathered = gathered
        self._reporting = reporting
        self._ran = False

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker of pytest-xdist was told."""
        for stage, message in unpacked((getattr(node, "workeroutput", None) or {}).get(OUTPUT)):
            self._gathered.take(stage, message, str)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtestloop(self) -> Generator[None, Any, None]:
        """From here on there is something to report, if the inside has come so far."""
        outcome = yield
        self._ran = outcome.excinfo is None or not isinstance(outcome.excinfo[1], pytest.UsageError)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports: everything has been heard, and nothing been summed up yet."""
        from coverage.exceptions import CoverageException

        if not self._ran:
            return
        gathered = self._gathered
        try:
            failed = self._reporting.report(session, gathered.stages)
        except CoverageException as error:
            gathered.error = gathered.error or str(error)
            failed = False
        if (failed or gathered.error) and int(session.exitstatus) in _FINE:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """What the reports do not say."""
        for line in self._notes():
            terminalreporter.write_line(escaped(f"envpar: coverage: {line}"))

    def _notes(self) -> list[str]:
        gathered = self._gathered
        lines = [f"no data: {gathered.error}"] if gathered.error else []
        for name, facts in gathered.stages.items():
            if facts.slow:
                lines.append(
                    f"stage {name} was measured by the slow tracer, in Python: none in C serves its Python "
                    f"{'.'.join(map(str, facts.python[:3]))}; install coverage in the image"
                )
            if self._ran and facts.done < facts.begun:
                lines.append(
                    f"the data of stage {name} is not complete: {facts.begun - facts.done} of {facts.begun} workers "
                    "did not end, and what ran in the moments before is missing"
                )
        if gathered.outside:
            lines.append(
                f"left out, because not of the project: {_some(gathered.outside)}; [paths] in the "
                "configuration of coverage.py can say which files of the project they are"
            )
        if gathered.missing:
            lines.append(
                f"left out, because only the stage has them: {_some(gathered.missing)}; 'omit' in the "
                "configuration of coverage.py keeps them from being measured"
            )
        return lines


def _some(names: set[str]) -> str:
    """The first few."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more
