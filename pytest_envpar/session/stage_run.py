"""One stage run as a pytest plugin: starts the worker, shows what it does as pytest's own, cleans up."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_envpar.errors import EnvparError
from pytest_envpar.session import crash, ends
from pytest_envpar.session.items import VirtualItem
from pytest_envpar.session.link import Ended
from pytest_envpar.session.memory import Memory
from pytest_envpar.session.one_stage import STATUS, OneStage
from pytest_envpar.session.signals import exit_status
from pytest_envpar.worker.agent import leave

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_envpar import options
    from pytest_envpar.session.launch import Launch

_OVER = (int(pytest.ExitCode.OK), int(pytest.ExitCode.TESTS_FAILED), int(pytest.ExitCode.NO_TESTS_COLLECTED))


class StageRun:
    """Owns one run, from the first container to the last removal; what happens in its stage is the stage's.

    It changes as the run goes on; pytest calls its hooks in the order of this file.
    """

    def __init__(self, config: pytest.Config, request: options.Request, launched: Launch, known: Any) -> None:
        self._config = config
        self._launch = launched
        self._quiet = bool(getattr(known, "no_header", False))  # absent with -p no:terminal
        self._stage = OneStage(config, request, launched, known, self._interrupt)
        self._final: int | None = None
        self._memory = Memory(launched.settings)
        # Also where pytest gives up before it has configured itself.
        config.add_cleanup(launched.close)
        leave.quickly()

    # --- start ---------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self) -> int | None:
        """Boot the worker; if it has no session to show (a usage error inside), pass on what it said."""
        from pytest_envpar.session.host_side import explain

        try:
            answer = self._stage.begin()
            if isinstance(answer, Ended) or self._stage.boot.relays:
                return self._stage.relay()
        except EnvparError as error:
            self._launch.end()
            return explain(error)
        except BaseException:
            self._launch.end()
            raise
        self._launch.signals.phase = "running"
        return None

    @pytest.hookimpl(hookwrapper=True)
    def pytest_sessionstart(self, session: pytest.Session) -> Generator[None, Any, None]:
        """Write the header: which stage, which exact image, and what the inside says of itself."""
        session.config.pluginmanager.register(self._stage.summary, "envpar-summary")
        yield
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            return
        # Of the host's own start: the project's settings are judged inside.
        reporter.stats.pop("warnings", None)
        if reporter.verbosity < 0 or self._quiet:
            return
        facts = self._stage.facts
        reporter.write_line(
            f"platform {facts.get('platform')} -- Python {facts.get('python')}, pytest-{facts.get('pytest')}, "
            f"pluggy-{facts.get('pluggy')}"
            + (f" -- {facts.get('executable')}" if reporter.verbosity > 0 else "")
        )
        cache = session.config.pluginmanager.get_plugin("cacheprovider")
        if cache is not None and (line := cache.pytest_report_header(session.config)):
            reporter.write_line(line)
        for line in (*self._stage.places.header(), *facts.get("header", ())):
            reporter.write_line(crash.escaped(str(line)))

    # --- collection ----------------------------------------------------------------------------------------------

    def pytest_collection(self, session: pytest.Session) -> bool:
        """Show what the inside collects as this session's own collection."""
        config = session.config
        collection = self._stage.collect(session)
        if collection is None:
            session.items = []
            config.hook.pytest_collection_finish(session=session)
            return True
        for parent, items in collection.by_parent():
            report = pytest.CollectReport(parent.nodeid, "passed", None, list(items))
            config.hook.pytest_collectreport(report=report)
        if collection.deselected:
            config.hook.pytest_deselected(items=collection.deselected)
        session.items = list(collection.items)
        session.testscollected = len(session.items)
        config.hook.pytest_collection_modifyitems(session=session, config=config, items=session.items)
        config.hook.pytest_collection_finish(session=session)
        session.testscollected = len(session.items)
        self._stage.plan(session.items)
        return True

    def pytest_report_collectionfinish(self) -> list[str]:
        """Lines of selection (last failed, stepwise) and of plugins inside."""
        return self._stage.lines

    # --- running -------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Go on as the inside does: an error of pytest there ends this session, live logs want a line per test."""
        config = session.config
        if not session.items or (session.testsfailed and not config.option.continue_on_collection_errors):
            self._stage.end_without_tests()
        if config.option.collectonly or config.pluginmanager.is_blocked("logging"):
            return
        live = getattr(config.option, "log_cli_level", None) is not None or config.getini("log_cli")
        if live and config.option.verbose < 1 and config.pluginmanager.has_plugin("terminalreporter"):
            config.option.verbose = 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Show one test as it happened inside."""
        if not isinstance(item, VirtualItem):
            return None
        self._stage.show(item)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> Any:
        """Words of plugins inside travel with their reports."""
        return getattr(report, STATUS, None)

    def _interrupt(self, number: int) -> NoReturn:
        """Ctrl-C, or another signal that ends the run."""
        self._launch.signals.phase = "ending"
        location = self._stage.interrupt()
        if number != signal.SIGINT:
            self._final = exit_status(number)
            raise pytest.Session.Interrupted(f"ended by {signal.Signals(number).name}")
        ends.keyboard_interrupt(location or [f"<stage {self._stage.name}>", 1])

    # --- end -----------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True, hookwrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, None]:
        """Hear the worker out, take its verdict, look at what the suite left, and begin to remove it all."""
        stage = self._stage
        try:
            self._hear_out(session)
            # What the inside stopped for is what pytest's last lines tell.
            stop = stage.link.stop
            if stop is not None and stop.kind == "failed" and not session.shouldfail:
                session.shouldfail = stop.text
        except KeyboardInterrupt:
            number = self._launch.signals.noted() or signal.SIGINT
            self._final = exit_status(number)
            stage.summary.notes.append(f"{signal.Signals(number).name} while the session inside was ending")
        self._launch.signals.phase = "ending"
        stage.look()
        removal = threading.Thread(target=self._launch.end, name="envpar-removal")
        ran = stage.places.ground is not None and not self._config.option.collectonly
        if ran:
            stage.places.parting = self._memory.see
        removal.start()
        try:
            yield
        finally:
            # pytest sums up only what ended in one of its usual ways, so the status of another comes after that.
            final = self._final if self._final is not None else stage.final
            if final is not None:
                session.exitstatus = final
            if ran:
                # The engine is still busy with the removal.
                self._remember(int(session.exitstatus))
            removal.join()
            self._memory.tell()

    def _remember(self, status: int) -> None:
        ground = self._stage.places.ground
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if ground is not None and reporter is not None:
            self._memory.keep(ground, status, reporter.stats)

    def _hear_out(self, session: pytest.Session) -> None:
        stage = self._stage
        over = int(session.exitstatus) in _OVER
        stage.hear_out(ended_here=not over, stopping=bool(session.shouldfail or session.shouldstop))
        if stage.verdict is not None and over:
            session.exitstatus = stage.verdict
        if stage.failed:
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Sections of plugins inside, at the place in the order of plugins that conftests have in a local run."""
        self._stage.summary.write_inside(terminalreporter)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Give the host's cache what only the inside knows; leave nothing behind."""
        finished = self._stage.link.finished
        cache = getattr(config, "cache", None)
        if finished is not None and cache is not None and self._stage.boot.stepwise:
            for key, value in dict(finished.output.get("cache") or {}).items():
                if key == "cache/stepwise":
                    cache.set(key, value)
