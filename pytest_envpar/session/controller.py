"""A stage run that pytest-xdist spreads over processes, as its controller sees it.

Each worker process of pytest-xdist is a stage run of its own, with a container of its own (see
:class:`~pytest_envpar.session.stage_run.StageRun`). The controller has none: it prepares what they all need, so that
an image is pulled and a lock file written once, tells what they have found, and looks after what is left of dead ones.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.errors import EnvparError
from pytest_envpar.session import crash
from pytest_envpar.session.environment import Environment
from pytest_envpar.session.memory import Memory
from pytest_envpar.session.one_stage import STATUS
from pytest_envpar.session.signals import exit_status

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from pytest_envpar.session.launch import Launch

OUTPUT = "envpar"
"""Key of a worker's output, for what it has to tell: ``lines`` and ``status``."""


class Controller:
    """The plugin of the controller's process.

    Args:
        config: pytest's configuration.
        launched: The stage, which is being prepared.
        quiet: No header was asked for.
    """

    def __init__(self, config: pytest.Config, launched: Launch, *, quiet: bool) -> None:
        self._config = config
        self._launch = launched
        self._quiet = quiet
        self._memory = Memory(launched.settings)
        self._told: dict[str, list[str]] = {}
        self._final: int | None = None
        config.add_cleanup(launched.close)

    @property
    def root(self) -> Path:
        """The project's folder (host)."""
        return self._launch.settings.root

    def environments(self) -> list[Environment]:
        """What the run's reports say of its stage."""
        return [Environment(self._launch.stage.name, self._launch.places.ground)]

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self) -> int | None:
        """Wait until everything is ready; workers that are started then find it so."""
        from pytest_envpar.session.host_side import explain

        try:
            self._launch.ahead.result()
        except EnvparError as error:
            self._launch.end()
            return explain(error)
        except BaseException:
            self._launch.end()
            raise
        # From here on pytest-xdist waits for its workers, and pytest's own way with Ctrl-C is the right one.
        self._launch.signals.restore()
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, self._end_by_signal)
        return None

    def _end_by_signal(self, number: int, _frame: object) -> None:
        self._final = exit_status(number)
        pytest.exit(f"ended by {signal.Signals(number).name}", self._final)

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Write the header below pytest's own first line and before those of pytest-xdist."""
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.stats.pop("warnings", None)
            if reporter.verbosity >= 0 and not self._quiet:
                for line in self._launch.places.header():
                    reporter.write_line(crash.escaped(line))

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> Any:
        """Words of plugins inside travel with their reports."""
        return getattr(report, STATUS, None)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self, node: Any) -> None:
        """Failures are told with the Python they happened in, which is that of the inside."""
        ground = self._launch.places.ground
        if ground is not None:
            node.workerinfo["executable"] = str(ground.probe.python)
            node.workerinfo["version_info"] = (*ground.probe.version, "final", 0)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Keep what a worker has to tell."""
        told = (getattr(node, "workeroutput", None) or {}).get(OUTPUT)
        if isinstance(told, dict):
            self._told[str(node.gateway.id)] = [str(line) for line in told.get("lines", ())]
            status = told.get("status")
            if isinstance(status, int):
                self._final = status

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, None]:
        """Have all workers gone, and what dead ones left as well."""
        try:
            yield
        finally:
            if self._final is not None:
                session.exitstatus = self._final
            reporter = self._config.pluginmanager.get_plugin("terminalreporter")
            ground = self._launch.places.ground
            self._launch.places.sweep()
            if ground is not None and reporter is not None:
                self._launch.places.parting = self._memory.see
                self._memory.keep(ground, int(session.exitstatus), reporter.stats)
            self._launch.end()
            self._memory.tell()

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """What the workers have to say, once where all of them say the same."""
        by_line: dict[str, list[str]] = {}
        for worker, lines in sorted(self._told.items()):
            for line in lines:
                by_line.setdefault(line, []).append(worker)
        for line, workers in by_line.items():
            who = "" if len(workers) == len(self._told) > 1 else f"{', '.join(workers)}: "
            terminalreporter.write_line(crash.escaped(f"envpar: {who}{line}"))
