"""One stage run as a pytest plugin: starts the worker, shows what it does as pytest's own, cleans up."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_envpar.errors import EngineError, EnvparError
from pytest_envpar.session import crash, decode, ends
from pytest_envpar.session.boot import Boot
from pytest_envpar.session.hearing import EXIT_S, Hearing
from pytest_envpar.session.items import Collection, VirtualItem
from pytest_envpar.session.link import MAX_RESTARTS, Ended, Link
from pytest_envpar.session.memory import Memory
from pytest_envpar.session.signals import exit_status
from pytest_envpar.session.summary import Summary
from pytest_envpar.worker.agent import leave, wire

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_envpar import options
    from pytest_envpar.session.launch import Launch

INTERRUPT_S = 0.9
DUMP_S = 0.4
_STATUS = "envpar_status"
_OVER = (int(pytest.ExitCode.OK), int(pytest.ExitCode.TESTS_FAILED), int(pytest.ExitCode.NO_TESTS_COLLECTED))


class StageRun:
    """Owns one run in one stage, from the first container to the last removal.

    It changes as the run goes on; pytest calls its hooks in the order of this file.
    """

    def __init__(self, config: pytest.Config, request: options.Request, launched: Launch, known: Any) -> None:
        self._config = config
        self._launch = launched
        self._settings = launched.settings
        self._stage = launched.stage
        self._selection = known
        self.places = launched.places
        self._summary = Summary(launched.stage.name)
        self._boot = Boot(config, request, known, launched.places, launched.stage.name)
        self._link = Link(launched.places, launched.stage.name, self._boot.options)
        self._hearing = Hearing(config, self._link, launched.signals, self._summary, self._interrupt)
        self._collection: Collection | None = None
        self._nodeids: list[str] = []
        self._header_lines: list[str] = []
        self._done: set[int] = set()
        self._death: crash.Death | None = None
        self._died_aside = False
        self._at_end: crash.Death | None = None
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
            self._launch.ahead.result()
            answer = self._link.begin()
            if isinstance(answer, Ended) or self._boot.relays:
                return self._relay()
        except EnvparError as error:
            self._launch.end()
            return explain(error)
        except BaseException:
            self._launch.end()
            raise
        self._launch.signals.phase = "running"
        return None

    def _relay(self) -> int:
        """Let the inside print and end."""
        link = self._link
        link.release()
        while not link.exited:
            link.receive()
        self._launch.end()
        if link.stop is not None and link.stop.kind == "internal":
            ends.write_internal_error(link.stop.text)
        return link.finished.status if link.finished is not None else int(pytest.ExitCode.INTERNAL_ERROR)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_sessionstart(self, session: pytest.Session) -> Generator[None, Any, None]:
        """Write the header: which stage, which exact image, and what the inside says of itself."""
        session.config.pluginmanager.register(self._summary, "envpar-summary")
        yield
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            return
        # Of the host's own start: the project's settings are judged inside.
        reporter.stats.pop("warnings", None)
        if reporter.verbosity < 0 or self._selection.no_header:
            return
        facts = self._link.ready.facts if self._link.ready is not None else {}
        reporter.write_line(
            f"platform {facts.get('platform')} -- Python {facts.get('python')}, pytest-{facts.get('pytest')}, "
            f"pluggy-{facts.get('pluggy')}"
            + (f" -- {facts.get('executable')}" if reporter.verbosity > 0 else "")
        )
        cache = session.config.pluginmanager.get_plugin("cacheprovider")
        if cache is not None and (line := cache.pytest_report_header(session.config)):
            reporter.write_line(line)
        for line in (*self.places.header(), *facts.get("header", ())):
            reporter.write_line(crash.escaped(str(line)))

    # --- collection ----------------------------------------------------------------------------------------------

    def pytest_collection(self, session: pytest.Session) -> bool:
        """Show what the inside collects as this session's own collection."""
        config = session.config
        link = self._link
        # From here on, what tests write past pytest's capture appears as it does in a local run.
        link.release()
        for early in link.early:
            self._hearing.aside(early)
        while True:
            message = self._hearing.receive()
            if isinstance(message, wire.CollectFailed):
                report = decode.collect_report(config, message.report)
                config.hook.pytest_collectreport(report=report)
            elif isinstance(message, wire.Collected):
                break
            elif isinstance(message, crash.Death):
                self._died_while_collecting(session, message)
                return True
            elif message is not None:
                self._hearing.aside(message)
        collection = self._collection = Collection(session, message)
        for parent, items in collection.by_parent():
            report = pytest.CollectReport(parent.nodeid, "passed", None, list(items))
            config.hook.pytest_collectreport(report=report)
        if collection.deselected:
            config.hook.pytest_deselected(items=collection.deselected)
        self._header_lines = [crash.escaped(str(line)) for line in message.lines]
        self._nodeids = [item.nodeid for item in collection.items]
        session.items = list(collection.items)
        session.testscollected = len(session.items)
        config.hook.pytest_collection_modifyitems(session=session, config=config, items=session.items)
        config.hook.pytest_collection_finish(session=session)
        session.testscollected = len(session.items)
        if self._boot.others_select() and not config.option.collectonly and link.stop is None:
            plan = [item.index for item in session.items if isinstance(item, VirtualItem)]
            link.place.client.send(wire.Plan(plan))
        return True

    def pytest_report_collectionfinish(self) -> list[str]:
        """Lines of selection (last failed, stepwise) and of plugins inside."""
        return self._header_lines

    def _died_while_collecting(self, session: pytest.Session, death: crash.Death) -> None:
        link = self._link
        if link.finished is not None:
            link.release() if link.finished.status != int(pytest.ExitCode.USAGE_ERROR) else None
            self._raise_for_end()
        where = link.collecting or ""
        text = crash.text(f"importing {where}" if where else "the collection", self._stage.name, death)
        report = pytest.CollectReport(where, "failed", None, [])
        report.longrepr = text
        session.config.hook.pytest_collectreport(report=report)
        session.items = []
        session.config.hook.pytest_collection_finish(session=session)

    # --- running -------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Go on as the inside does: an error of pytest there ends this session, live logs want a line per test."""
        config = session.config
        if not session.items or (session.testsfailed and not config.option.continue_on_collection_errors):
            # No test will be heard of, so that this is where to hear that the inside has failed.
            self._at_end = self._until_finished(session)
            stop, finished = self._link.stop, self._link.finished
            usage = finished is not None and finished.status == int(pytest.ExitCode.USAGE_ERROR)
            if usage or (stop is not None and stop.kind == "internal"):
                self._raise_for_end()
        if config.option.collectonly or config.pluginmanager.is_blocked("logging"):
            return
        live = getattr(config.option, "log_cli_level", None) is not None or config.getini("log_cli")
        if live and config.option.verbose < 1 and config.pluginmanager.has_plugin("terminalreporter"):
            config.option.verbose = 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Show one test: wait for what the worker says of it, and hand it to pytest's own hooks."""
        if not isinstance(item, VirtualItem):
            return None
        return self._show(item)

    def _show(self, item: VirtualItem) -> bool:
        if self._death is not None:
            self._go_on(item)
        hook = self._config.hook
        index = item.index
        started = over = False
        while True:
            message = self._hearing.receive()
            if isinstance(message, wire.Passed) and message.index == index:
                over = message.when == "teardown"
                hook.pytest_runtest_logreport(
                    report=decode.passed_report(
                        item.nodeid,
                        item.location,
                        item.keywords_seen,
                        message.when,
                        message.start,
                        message.stop,
                        message.duration,
                    )
                )
            elif isinstance(message, wire.Start) and message.index == index:
                started = True
                self._hearing.shown.add(index)
                hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            elif isinstance(message, wire.Finish) and message.index == index:
                hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
                self._done.add(index)
                return True
            elif isinstance(message, wire.Report):
                over = message.report.get("when") == "teardown"
                self._report(item, message)
            elif isinstance(message, (wire.Start, wire.Passed, wire.Finish)):
                raise pytest.UsageError(
                    f"the worker of stage {self._stage.name} ran test {message.index} when {index} was due"
                )
            elif isinstance(message, crash.Death):
                self._crashed(item, message, started, over)
                return True
            elif isinstance(message, wire.Stop):
                ends.raise_for_stop(message, self._stage.name)
            elif isinstance(message, wire.Finished):
                self._raise_for_end()
            elif message is not None:
                self._hearing.aside(message)

    def _report(self, item: VirtualItem, message: wire.Report) -> None:
        report = decode.test_report(self._config, message.report, item.nodeid, item.location)
        if message.status is not None:
            category, letter, word = message.status
            status = (category, letter, (word[0], word[1]) if isinstance(word, list) else word)
            report.__dict__[_STATUS] = status  # reports take extra attributes
        self._config.hook.pytest_runtest_logreport(report=report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> Any:
        """Words of plugins inside travel with their reports."""
        return getattr(report, _STATUS, None)

    def _crashed(self, item: VirtualItem, death: crash.Death, started: bool, over: bool) -> None:
        """The worker died: the test that was running failed, and the cause is told."""
        self._death = death
        hook = self._config.hook
        if self._link.finished is not None:
            self._raise_for_end()
        if not started:
            # Between two tests: this one has not run; the next worker takes it.
            self._died_aside = True
            self._summary.notes += crash.text(
                "what came between two tests", self._stage.name, death
            ).splitlines()
            self._go_on(item)
            self._show(item)
            return
        if over:
            # All its phases have been told: whatever came next is to blame.
            self._died_aside = True
            text = crash.text(f"what came after {item.nodeid}", self._stage.name, death)
            self._summary.notes += text.splitlines()
        else:
            text = crash.text(item.nodeid, self._stage.name, death)
            report = crash.report(item.nodeid, item.location, item.keywords_seen, text)
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        self._done.add(item.index)

    def _go_on(self, item: VirtualItem) -> None:
        """A fresh worker for the rest of the suite."""
        death, self._death = self._death, None
        assert death is not None
        session = item.session
        indices = [other.index for other in session.items if isinstance(other, VirtualItem)]
        remaining = [index for index in indices if index not in self._done]
        link = self._link
        if link.restarts >= MAX_RESTARTS:
            raise session.Interrupted(
                f"{link.restarts + 1} workers of stage {self._stage.name} died; {len(remaining)} tests were not run"
            )
        try:
            lost = link.restart(death, remaining, self._nodeids, session.testsfailed)
        except EnvparError as error:
            if isinstance(error, EngineError):
                self._final = int(pytest.ExitCode.INTERNAL_ERROR)
            raise session.Interrupted(
                f"no fresh worker for stage {self._stage.name}; {len(remaining)} tests were not run: {error}"
            ) from None
        if lost:
            names = ", ".join(self._nodeids[index] for index in lost[:3])
            raise session.Interrupted(
                f"a fresh worker of stage {self._stage.name} did not collect {len(lost)} tests again: {names}"
            )

    # --- early ends ----------------------------------------------------------------------------------------------

    def _raise_for_end(self) -> NoReturn:
        ends.raise_for_end(self._link, self._outside())

    def _outside(self) -> list[str]:
        words = [str(word) for word in self._selection.file_or_dir]
        return ends.outside(self._settings.root, self._config.invocation_params.dir, words)

    def _interrupt(self, number: int) -> NoReturn:
        """Ctrl-C: as locally, but a test that does not react costs no more than two seconds."""
        self._launch.signals.phase = "ending"
        link = self._link
        link.place.client.send(wire.Interrupt())
        running = link.running
        self._hearing.drain(INTERRUPT_S)
        if not link.exited and link.finished is None:
            link.place.client.send(wire.Dump())
            death = self._hearing.drain(DUMP_S)
            if death is None:
                death = crash.Death(
                    "it did not react to an interrupt within a second", link.place.client.tail(), True
                )
            item = self._item(running)
            cause = f"interrupted, and did not react within {INTERRUPT_S} seconds ({death.cause})"
            death = crash.Death(cause, death.tail, True)
            if item is None:
                where = f"importing {link.collecting}" if link.collecting else "what ran between the tests"
                self._summary.notes += crash.text(where, self._stage.name, death).splitlines()
            else:
                text = crash.text(item.nodeid, self._stage.name, death)
                self._config.hook.pytest_runtest_logreport(
                    report=crash.report(item.nodeid, item.location, item.keywords_seen, text)
                )
        if number != signal.SIGINT:
            self._final = exit_status(number)
            raise pytest.Session.Interrupted(f"ended by {signal.Signals(number).name}")
        item = self._item(running)
        location = link.stop.location if link.stop is not None else None
        if location is None and item is not None:
            location = [item.location[0], (item.location[1] or 0) + 1]
        ends.keyboard_interrupt(location or [link.collecting or f"<stage {self._stage.name}>", 1])

    def _item(self, index: int | None) -> VirtualItem | None:
        if index is None or self._collection is None or not 0 <= index < len(self._collection.items):
            return None
        return self._collection.items[index]

    # --- end -----------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True, hookwrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, None]:
        """Hear the worker out, take its verdict, look at what the suite left, and begin to remove it all."""
        try:
            self._hear_out(session)
            self._take_over_reason(session)
        except KeyboardInterrupt:
            number = self._launch.signals.noted() or signal.SIGINT
            self._final = exit_status(number)
            self._summary.notes.append(f"{signal.Signals(number).name} while the session inside was ending")
        self._launch.signals.phase = "ending"
        self._summary.unseen = len(self._hearing.unseen)
        if not self._hearing.interrupted:
            self._summary.look(self.places, self._settings, self._link)
        removal = threading.Thread(target=self._launch.end, name="envpar-removal")
        ran = self.places.ground is not None and not self._config.option.collectonly
        if ran:
            self.places.parting = self._memory.see
        removal.start()
        try:
            yield
        finally:
            # pytest sums up only what ended in one of its usual ways, so the status of another comes after that.
            if self._final is not None:
                session.exitstatus = self._final
            if ran:
                # The engine is still busy with the removal.
                self._remember(int(session.exitstatus))
            removal.join()
            self._memory.tell()

    def _remember(self, status: int) -> None:
        ground = self.places.ground
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if ground is not None and reporter is not None:
            self._memory.keep(ground, status, reporter.stats)

    def _take_over_reason(self, session: pytest.Session) -> None:
        """What the inside stopped for is what pytest's last lines tell."""
        stop = self._link.stop
        if stop is not None and stop.kind == "failed" and not session.shouldfail:
            session.shouldfail = stop.text

    def _until_finished(self, session: pytest.Session) -> crash.Death | None:
        return self._hearing.until_finished(stopped=bool(session.shouldfail or session.shouldstop))

    def _hear_out(self, session: pytest.Session) -> None:
        link = self._link
        at_end = self._at_end
        if link.finished is None and not link.exited:
            if self._stopped_here(session):
                link.place.client.send(wire.Interrupt())
                self._hearing.drain(INTERRUPT_S)
            else:
                at_end = self._until_finished(session)
        if link.finished is not None and int(session.exitstatus) in _OVER and link.restarts == 0:
            session.exitstatus = link.finished.status
        if link.finished is not None and not link.exited and not self._hearing.interrupted:
            death = self._hearing.until_exit()
            if death is None:
                self._summary.notes.append(
                    f"the worker did not leave within {EXIT_S:g} seconds after its session and was removed"
                )
            elif death.cause.startswith("killed"):
                self._summary.notes.append(f"the worker died after its session: {death.cause}")
                session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
        elif at_end is not None and link.finished is None:
            text = crash.text("the end of the session", self._stage.name, at_end)
            self._summary.notes += text.splitlines()
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
        if self._died_aside:
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
        if link.finished is not None and link.finished.status == int(pytest.ExitCode.USAGE_ERROR):
            self._summary.notes += self._outside()

    @staticmethod
    def _stopped_here(session: pytest.Session) -> bool:
        """Whether this side ended the run on its own, so that the inside has to be told."""
        return int(session.exitstatus) not in _OVER

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Sections of plugins inside, at the place in the order of plugins that conftests have in a local run."""
        self._summary.write_inside(terminalreporter)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Give the host's cache what only the inside knows; leave nothing behind."""
        finished = self._link.finished
        cache = getattr(config, "cache", None)
        if finished is not None and cache is not None and self._boot.stepwise:
            for key, value in dict(finished.output.get("cache") or {}).items():
                if key == "cache/stepwise":
                    cache.set(key, value)
