"""A stage run that pytest-xdist spreads over processes, as its controller sees it.

Each worker process of pytest-xdist is a stage run of its own, with a container of its own for each stage (see
:class:`~pytest_envpar.session.stage_run.StageRun`). The controller has none: it prepares what they all need, so that
an image is pulled and a lock file written once, tells what they have found, and looks after what is left of dead ones.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.errors import EnvparError
from pytest_envpar.session import crash, crew, ends, newer_ids, pool, suffix
from pytest_envpar.session.environment import Environment
from pytest_envpar.session.launch import end_all
from pytest_envpar.session.memory import Memory
from pytest_envpar.session.one_stage import STATUS
from pytest_envpar.session.parity import Parity
from pytest_envpar.session.signals import exit_status

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from pytest_envpar.config.model import Settings
    from pytest_envpar.session.launch import Launch
    from pytest_envpar.session.pollution import PollutionReport
    from pytest_envpar.worker.start import Ground

OUTPUT = "envpar"
"""Key of a worker's output, for what it has to tell: ``lines``, ``status``, ``lost`` (engines of a pool) and
``pollution``, if that was asked for."""


class Controller:
    """The plugin of the controller's process.

    Args:
        config: pytest's configuration.
        launched: The stages, which are being prepared.
        names: All stages that were asked for, also those of which the command line names no test.
        narrowed: Not every stage is to run all of the same tests.
        quiet: No header was asked for.
        pollution: Writes what the workers tell of what their tests left, if that was asked for.
    """

    def __init__(
        self,
        config: pytest.Config,
        launched: Sequence[Launch],
        names: Sequence[str],
        *,
        narrowed: bool,
        quiet: bool,
        pollution: PollutionReport | None = None,
    ) -> None:
        self._config = config
        self._launched = list(launched)
        self._names = list(names)
        self._narrowed = narrowed
        self._quiet = quiet
        self._memory = Memory(launched[0].settings)
        self._told: dict[str, list[str]] = {}
        self._final: int | None = None
        self._missing: dict[str, EnvparError] = {}
        self._lost: dict[str, str] = {}
        self._nodes: dict[tuple[Any, str], crew.StageNode] = {}
        self._parity = Parity(config, [each.stage.name for each in launched]) if len(launched) > 1 else None
        self._pollution = pollution

    @property
    def _alone(self) -> bool:
        return len(self._names) == 1

    @property
    def settings(self) -> Settings:
        """The project's configuration."""
        return self._launched[0].settings

    def environments(self) -> list[Environment]:
        """What the run's reports say of its stages."""
        return [
            Environment(each.stage.name, each.places.ground, lost=self._why(each.stage.name))
            for each in self._launched
        ]

    def _why(self, stage: str) -> str:
        error = self._missing.get(stage)
        if error is None:
            return ""
        return f"stage {stage} could not be started: " + "\n".join(error.lines())

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self) -> int | None:
        """Wait until everything is ready; workers that are started then find it so."""
        from pytest_envpar.session.host_side import explain

        try:
            for each in self._launched:
                try:
                    each.ahead.result()
                except EnvparError as error:
                    self._missing[each.stage.name] = error
        except BaseException:
            self._end()
            raise
        if len(self._missing) == len(self._launched):
            self._end()
            return max(map(explain, self._missing.values()))
        # From here on pytest-xdist waits for its workers, and pytest's own way with Ctrl-C is the right one.
        self._launched[0].signals.restore()
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, self._end_by_signal)
        return None

    def _end_by_signal(self, number: int, _frame: object) -> None:
        self._final = exit_status(number)
        pytest.exit(f"ended by {signal.Signals(number).name}", self._final)

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Write the header below pytest's own first line and before those of pytest-xdist."""
        if self._pollution is not None:
            session.config.pluginmanager.register(self._pollution, "envpar-pollution")
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.stats.pop("warnings", None)
            if reporter.verbosity >= 0 and not self._quiet:
                for line in (line for each in self._launched for line in self._header(each)):
                    reporter.write_line(crash.escaped(line))
        if self._parity is not None:
            session.config.pluginmanager.register(self._parity, "envpar-parity")

    def _header(self, launched: Launch) -> list[str]:
        error = self._missing.get(launched.stage.name)
        if error is not None:
            return [f"envpar: stage {launched.stage.name} could not be started: {error.lines()[0]}"]
        return launched.places.header()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """What a mode keeps together it keeps together for each stage by itself."""
        return crew.scheduler(config, log, self._names)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        """Have each report told with its stage and the Python of that stage."""
        if self._alone:
            return
        stage = str(dict(report.user_properties).get("stage"))
        if self._config.getoption("dist") == "loadgroup":
            report.nodeid = suffix.without_group(report.nodeid, stage)
        ground = next((each.places.ground for each in self._launched if each.stage.name == stage), None)
        node = getattr(report, "node", None)
        if ground is not None and node is not None:
            known = self._nodes.get((node, stage))
            if known is None:
                known = self._nodes[node, stage] = crew.StageNode(node, _python(ground))
            report.node = known
        newer_ids.mend(self._config, report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> Any:
        """Words of plugins inside travel with their reports."""
        return getattr(report, STATUS, None)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self, node: Any) -> None:
        """Failures are told with the Python they happened in, which is that of the inside."""
        ground = self._launched[0].places.ground
        if ground is not None and self._alone:
            node.workerinfo.update(_python(ground))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Keep what a worker has to tell."""
        told = (getattr(node, "workeroutput", None) or {}).get(OUTPUT)
        if isinstance(told, dict):
            self._told[str(node.gateway.id)] = [str(line) for line in told.get("lines", ())]
            self._lost |= {str(name): str(why) for name, why in dict(told.get("lost") or {}).items()}
            if self._pollution is not None:
                self._pollution.take(told.get("pollution"))
            status = told.get("status")
            if isinstance(status, int):
                self._final = status

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, None]:
        """Have all workers gone, and what dead ones left as well."""
        if self._parity is not None:
            stopped = bool(session.shouldfail or session.shouldstop)
            self._parity.whole = not (self._narrowed or stopped) and int(session.exitstatus) in ends.OVER
        try:
            yield
        finally:
            if self._final is not None:
                session.exitstatus = self._final
            reporter = self._config.pluginmanager.get_plugin("terminalreporter")
            for each in self._launched:
                ground = each.places.ground
                each.places.sweep()
                if ground is not None and reporter is not None:
                    each.places.parting = self._memory.see
                    ending = "" if self._alone else f"@{each.stage.name}"
                    self._memory.keep(ground, int(session.exitstatus), reporter.stats, ending)
            self._end()
            self._memory.tell()

    def _end(self) -> None:
        """Remove everything, of all stages at once."""
        end_all(self._launched)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """What the workers have to say, once where all of them say the same."""
        lost = {name: why for each in self._launched for name, why in each.places.lost.items()}
        for line in pool.lines(self._lost | lost):
            terminalreporter.write_line(f"envpar: {crash.escaped(line)}")
        by_line: dict[str, list[str]] = {}
        for worker, lines in sorted(self._told.items()):
            for line in lines:
                by_line.setdefault(line, []).append(worker)
        for line, workers in by_line.items():
            who = "" if len(workers) == len(self._told) > 1 else f"{', '.join(workers)}: "
            terminalreporter.write_line(crash.escaped(f"envpar: {who}{line}"))


def _python(ground: Ground) -> dict[str, Any]:
    return {"executable": str(ground.probe.python), "version_info": (*ground.probe.version, "final", 0)}
