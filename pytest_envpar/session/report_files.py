"""``--env-report``: the run as files, by suffix as a page, as data, as Markdown or as SARIF."""

from __future__ import annotations

import datetime as dt
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar import options
from pytest_envpar.errors import EnvparError, UsageError
from pytest_envpar.reports import files
from pytest_envpar.reports.run import WORST_FIRST, EndOfTest, RunReport
from pytest_envpar.session import suffix
from pytest_envpar.session.one_stage import NOT_RUN

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

FORMS = {".html": "html", ".htm": "html", ".json": "json", ".md": "markdown", ".sarif": "sarif"}
_MAX_TEXT = 100_000
"""Characters kept of one test's text."""


def register(config: pytest.Config) -> None:
    """Write reports at the end of a run that asks for them, except in the worker processes of pytest-xdist.

    Raises:
        pytest.UsageError: A report cannot be written, or there will be nothing to report.
    """
    if hasattr(config, "workerinput") or any(getattr(config.option, name, False) for name in options.PASSIVE):
        return
    try:
        wanted = asked(config)
    except EnvparError as error:
        raise pytest.UsageError(*error.lines()) from None
    if not config.option.collectonly:
        config.pluginmanager.register(ReportFiles(config, wanted), "envpar-reports")


def asked(config: pytest.Config) -> tuple[tuple[Path, str], ...]:
    """The files to write (host paths) with their forms.

    Raises:
        UsageError: A name has no suffix that we know, names a folder, or there will be nothing to report.
    """
    name = options.REPORT.name
    drifts = config.pluginmanager.has_plugin("envpar-gate")
    if not drifts and not config.pluginmanager.has_plugin("envpar-run"):
        raise UsageError(
            f"{name}: there is neither a stage nor a comparison to report",
            hint=f"run with {options.STAGE.name}=STAGE or {options.DRIFT.name}, or use pytest's own reports",
        )
    found = []
    for given in getattr(config.option, options.REPORT.dest):
        path = config.invocation_params.dir / Path(given).expanduser()
        form = FORMS.get(path.suffix.lower())
        if form is None:
            raise UsageError(
                f"{name}={given}: the end of its name says which report this is, and {path.suffix!r} says none",
                hint=f"name a file that ends with one of {', '.join(FORMS)}",
            )
        if form == "sarif" and not (drifts or getattr(config.option, options.POLLUTION.dest)):
            raise UsageError(
                f"{name}={given}: SARIF holds what comparisons find and tests leave, and neither is looked at",
                hint=f"add {options.DRIFT.name} or {options.POLLUTION.name}",
            )
        if path.is_dir():
            raise UsageError(f"{name}={given}: this is a folder", hint="name a file in it")
        found.append((path, form))
    return tuple(found)


class ReportFiles:
    """Gathers how tests end, and writes it down once.

    Args:
        config: pytest's configuration.
        wanted: Files with their forms, see :func:`asked`.
    """

    def __init__(self, config: pytest.Config, wanted: Sequence[tuple[Path, str]]) -> None:
        self._config = config
        self._wanted = wanted
        self._started = time.time()
        self._outcomes: dict[str, str] = {}
        self._durations: dict[str, float] = {}
        self._texts: dict[str, list[str]] = {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be collected is an error of its own."""
        if report.failed:
            self._note(report, "error")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The worst of a test's phases counts, their times add up."""
        nodeid = report.nodeid
        self._durations[nodeid] = self._durations.get(nodeid, 0.0) + report.duration
        status = self._config.hook.pytest_report_teststatus(report=report, config=self._config)
        category = "not run" if getattr(report, NOT_RUN, False) else status[0] if status else report.outcome
        if category:
            self._note(report, category)

    def _note(self, report: pytest.CollectReport | pytest.TestReport, category: str) -> None:
        nodeid = report.nodeid
        known = self._outcomes.get(nodeid)
        if known is None or _rank(category) < _rank(known):
            self._outcomes[nodeid] = category
        if category != "passed":
            text = _text_of(report)
            if text:
                self._texts.setdefault(nodeid, []).append(text)

    @pytest.hookimpl(tryfirst=True, hookwrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, None]:
        """Come after the gate, which is registered before and has its say about the exit status."""
        yield
        report = self._report(int(session.exitstatus))
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        for path, form in self._wanted:
            try:
                files.write(path, self._rendered(report, form), parents=True)
            except UsageError as error:
                line, bad = f"report {path} was not written: {error.message}", True
                session.exitstatus = session.exitstatus or pytest.ExitCode.INTERNAL_ERROR
            else:
                line, bad = f"report written to {path}", False
                self._config.hook.pytest_envpar_report_written(path=path, form=form)
            if reporter is not None and (bad or reporter.verbosity >= 0):
                reporter.write_line(f"envpar: {line}", **({"red": True} if bad else {}))

    def _report(self, status: int) -> RunReport:
        manager = self._config.pluginmanager
        plugins = ("run", "gate", "parity", "pollution")
        run, gate, parity, pollution = (manager.get_plugin(f"envpar-{name}") for name in plugins)
        stages = tuple(each.facts() for each in run.environments()) if run is not None else ()
        names = [stage.name for stage in stages]
        started = dt.datetime.fromtimestamp(self._started).astimezone()
        return RunReport(
            project=(run.settings.root if run is not None else self._config.rootpath).name,
            started=started.isoformat(timespec="seconds"),
            duration_s=time.time() - self._started,
            exit_status=status,
            stages=stages,
            tests=tuple(self._test(nodeid, names) for nodeid in self._outcomes),
            drifts=gate.drifts if gate is not None else (),
            fail_on=gate.fail_on if gate is not None else None,
            errors=gate.errors if gate is not None else (),
            differing=tuple(parity.differing) if parity is not None else (),
            pollution=pollution.leftovers(names) if pollution is not None else None,
        )

    def _test(self, nodeid: str, names: Sequence[str]) -> EndOfTest:
        bare, stage = suffix.split(nodeid, names) if len(names) > 1 else (nodeid, None)
        if stage is None and len(names) == 1:
            stage = names[0]
        return EndOfTest(
            bare,
            stage,
            self._outcomes[nodeid],
            self._durations.get(nodeid, 0.0),
            "\n".join(self._texts.get(nodeid, ())),
        )

    def _rendered(self, report: RunReport, form: str) -> str:
        """A report's text, where files are named from the project's root on, as if that were the repository's."""
        manager = self._config.pluginmanager
        asker = manager.get_plugin("envpar-run") or manager.get_plugin("envpar-gate")
        settings = asker.settings if asker is not None else None
        if settings is None:
            return files.rendered(report, form)
        rootdir = Path(os.path.relpath(self._config.rootpath, settings.root)).as_posix()
        return files.rendered(report, form, settings.file.name, rootdir=rootdir)


def _rank(category: str) -> int:
    return WORST_FIRST.index(category) if category in WORST_FIRST else len(WORST_FIRST)


def _text_of(report: pytest.CollectReport | pytest.TestReport) -> str:
    """What pytest would show of a report below its title."""
    longrepr: Any = report.longrepr
    if isinstance(longrepr, tuple) and len(longrepr) == 3:
        return str(longrepr[2])
    parts = [report.longreprtext]
    parts += [f"--- {name} ---\n{text}" for name, text in report.sections if report.failed]
    return "\n".join(part for part in parts if part)[:_MAX_TEXT]
