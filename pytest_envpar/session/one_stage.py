"""One stage of a run: its worker from the first container to the last word, shown as pytest's own."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_envpar.session import crash, crew, decode, ends, newer_ids
from pytest_envpar.session.boot import Boot
from pytest_envpar.session.breaking_off import ENDING_S, INTERRUPT_S, break_off
from pytest_envpar.session.hearing import EXIT_S, Hearing
from pytest_envpar.session.items import Collection, VirtualItem
from pytest_envpar.session.keeping import StageKeeping
from pytest_envpar.session.link import Ended, Link
from pytest_envpar.session.service_reports import ServiceReports
from pytest_envpar.session.succession import Succession
from pytest_envpar.session.summary import Summary
from pytest_envpar.worker.agent import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_envpar import options
    from pytest_envpar.session.console import Console
    from pytest_envpar.session.launch import Launch
    from pytest_envpar.session.pollution import PollutionReport
    from pytest_envpar.worker.start import Site

STATUS = "envpar_status"
"""Attribute of a report: category, letter and word as the inside computed them."""

ENDS = (KeyboardInterrupt, pytest.Session.Failed, pytest.exit.Exception, pytest.UsageError)
"""What ends a session; ``pytest.Session.Interrupted`` is a KeyboardInterrupt."""
NOT_RUN = "envpar_not_run"
"""Attribute of a report: the test was not run because its stage is not there."""
_INTERRUPTED = int(pytest.ExitCode.INTERRUPTED)
_GOOD = (int(pytest.ExitCode.OK), int(pytest.ExitCode.NO_TESTS_COLLECTED))


@dataclasses.dataclass(frozen=True)
class Lost:
    """Why a stage has no more to say.

    Args:
        shown: Whether the tests that are left fail for this reason; otherwise they were not to be run.
    """

    reason: str
    shown: bool = True


class OneStage:
    """Owns the conversation with one stage's worker and everything that is known of its tests.

    It changes as the run goes on. Which stage's turn it is, and when the run is over, is the run's business: see
    :class:`~pytest_envpar.session.stage_run.StageRun`.

    Args:
        config: pytest's configuration.
        request: What the user asked.
        launched: The stage, with its first container being started.
        known: pytest's namespace with all that the host knows of the command line.
        stages: The names of all stages of the run. Among several, this one may fail without ending the run.
        on_signal: Called once, with the number, when a signal was noted while the run waits; does not return.
        pollution: Is told what the tests leave on the file system, if that was asked for.
        console: Standard input, if the stage may have it.
    """

    def __init__(
        self,
        config: pytest.Config,
        request: options.Request,
        launched: Launch,
        known: Any,
        stages: Sequence[str],
        on_signal: Callable[[int], NoReturn],
        pollution: PollutionReport | None = None,
        console: Console | None = None,
    ) -> None:
        self.name = launched.stage.name
        self.launch = launched
        self.places = launched.places
        self.alone = len(stages) == 1
        self.suffix = "" if self.alone else f"@{self.name}"
        self.summary = Summary(self.name, alone=self.alone)
        self._pollution = pollution
        self._stage = "" if self.alone else self.name
        remembered = None if pollution is None else functools.partial(pollution.remembered, self._stage)
        self.boot = Boot(config, request, known, launched.places, self.name, stages, remembered, console)
        self.link = Link(launched.places, self.name, self.boot, console)
        self.link.measured = self._measured
        self.hearing = Hearing(
            config, self.link, launched.signals, self.summary, on_signal, self.suffix, pollution
        )
        self.collection: Collection | None = None
        self.lines: list[str] = []
        """What the inside has to say of its collection."""
        self.failed = False
        """Something of this stage went wrong that no test of it shows."""
        self.errors = 0
        """Files that could not be collected."""
        self.lost: Lost | None = None
        """Why no more is heard of this stage, while others go on."""
        self.halted = False
        """This side has ended the stage because the run was over."""
        self.error: BaseException | None = None
        """What ended the session of this stage, as it would have been raised in a run of this stage alone."""
        self.started = False
        self.final: int | None = None
        """The exit status this stage insists on."""
        folder = config.invocation_params.dir
        self._keeping = launched.places.keeping = StageKeeping(request.keep, os.environ, folder)
        self._ended_here = False
        self._config = config
        self._words = [str(word) for word in known.file_or_dir]
        self._services = ServiceReports(launched.places)
        self._nodeids: list[str] = []
        self._done: set[int] = set()
        self._succession = Succession(config, self.link, launched.places, request.fresh, self._look)
        self._statuses: list[int] = []
        """Of the sessions in former containers."""
        self._at_end: crash.Death | None = None
        self._planned = False
        self._fresh = request.fresh
        self._failures = 0
        self._last: pytest.CollectReport | pytest.TestReport | None = None
        if self.boot.crew and not self.alone:
            self.hearing.late = self._late

    def _measured(self, message: wire.Coverage) -> None:
        measured = self._config.pluginmanager.get_plugin("envpar-coverage")
        if measured is not None:
            measured.take(self.name, message, self.link.place)

    # --- start ---------------------------------------------------------------------------------------------------

    def boot_worker(self) -> None:
        """Wait for the container and boot the first worker. Raises EnvparError."""
        self.launch.ahead.result()
        self.link.boot()
        self.started = True

    def begin(self) -> wire.Ready | Ended:
        """Wait until the worker has a session, or has left without one. Raises EnvparError."""
        return self.link.begin()

    def not_started(self, reason: str) -> None:
        """The stage has no session: its tests, known from another stage, fail for this reason."""
        self.lost = Lost(f"stage {self.name} could not be started: {reason}")
        self.failed = True
        self.keep()
        self.launch.end()

    def told(self) -> str:
        """What the inside wrote before it left without a session, in one line."""
        self.hearing.drain(EXIT_S)
        text = "".join(text for _, text in self.link.held or ())
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return crash.escaped(" | ".join(lines[-5:]) or "pytest ended before it had a session")

    def relay(self) -> int:
        """Let the inside print and end; returns the exit status."""
        link = self.link
        link.release()
        while not link.exited:
            link.receive()
        self.launch.end()
        if link.stop is not None and link.stop.kind == "internal":
            ends.write_internal_error(link.stop.text)
        return link.finished.status if link.finished is not None else int(pytest.ExitCode.INTERNAL_ERROR)

    @property
    def facts(self) -> dict[str, Any]:
        """What the inside said of itself when it had a session."""
        return self.link.ready.facts if self.link.ready is not None else {}

    # --- collection ----------------------------------------------------------------------------------------------

    def collect(self, session: pytest.Session) -> wire.Collected | None:
        """Hear what the inside collects; None if there is nothing to be had, which has been told then."""
        if self.lost is not None:
            return None
        try:
            return self._collect(session)
        except ENDS as error:
            self._lose(error)
            return None

    def stand_in(self, session: pytest.Session, message: wire.Collected) -> None:
        """Take what another stage has collected for the tests that this one would have had."""
        self.collection = Collection(session, message, self.name)

    def _collect(self, session: pytest.Session) -> wire.Collected | None:
        config = self._config
        link = self.link
        # From here on, what tests write past pytest's capture appears as it does in a local run.
        link.release()
        for early in link.early:
            self.hearing.aside(early)
        while True:
            message = self.hearing.receive()
            if isinstance(message, wire.CollectFailed):
                report = decode.collect_report(config, message.report)
                report.nodeid += self.suffix
                if report.failed:
                    self.errors += 1
                    self._keeping.blame(f"{report.nodeid or 'the collection'} could not be collected")
                self._last = report
                config.hook.pytest_collectreport(report=report)
            elif isinstance(message, wire.Debugged):
                self._debugged()
            elif isinstance(message, wire.Collected):
                break
            elif isinstance(message, crash.Death):
                if message.engine_gone and link.finished is None:
                    self.errors = 0
                    link.reboot()
                    continue
                self._died_while_collecting(message)
                return None
            elif message is not None:
                self.hearing.aside(message)
        self.lines = [crash.escaped(str(line)) for line in message.lines]
        self.collection = Collection(session, message, None if self.alone else self.name)
        self._nodeids = [self.collection.bare(item) for item in self.collection.items]
        return message

    @property
    def nodeids(self) -> list[str]:
        """Node ids as the inside knows them, in the order in which it would run them."""
        if self.collection is None:
            return []
        return [self.collection.bare(item) for item in self.collection.items]

    def leave_out(self, why: str) -> None:
        """Show none of the tests; the others go on."""
        count = len(self.collection.items) if self.collection is not None else 0
        if count:
            noun = "test was" if count == 1 else "tests were"
            self.summary.notes.append(f"{count} {noun} not run: {why}")
        self.lost = Lost(why, shown=False)

    def plan(self, items: list[pytest.Item]) -> None:
        """Tell the inside, if it waits for that, which of its tests to run and in which order."""
        if self._planned or self.lost is not None or not self.boot.expects_plan():
            return
        self._planned = True
        if not self._config.option.collectonly and self.link.stop is None:
            mine = self._succession.begin(self._indices(items), self._nodeids)
            self.link.place.client.send(wire.Plan(mine, 0))

    def _indices(self, items: list[pytest.Item]) -> list[int]:
        stage = None if self.alone else self.name
        return [item.index for item in items if isinstance(item, VirtualItem) and item.stage == stage]

    def _died_while_collecting(self, death: crash.Death) -> None:
        link = self.link
        if link.finished is not None:
            link.release() if link.finished.status != int(pytest.ExitCode.USAGE_ERROR) else None
            self._raise_for_end()
        where = link.collecting or ""
        text = crash.text(f"importing {where}" if where else "the collection", self.name, death)
        report = pytest.CollectReport(where + self.suffix, "failed", None, [])
        report.longrepr = text
        self.errors += 1
        self._keeping.blame(f"{where or 'the collection'} crashed its worker")
        self._config.hook.pytest_collectreport(report=report)

    def run_nothing(self) -> None:
        """Of a worker of pytest-xdist that has collected nothing: hear out why."""
        if self.lost is not None:
            return
        self.link.place.client.send(wire.Run(None, None))
        self.end_without_tests()

    def end_without_tests(self) -> None:
        """No test will be heard of: hear out the inside, which may have failed in a way that ends this session."""
        self._at_end = self.hearing.until_finished(stopped=False)
        stop, finished = self.link.stop, self.link.finished
        usage = finished is not None and finished.status == int(pytest.ExitCode.USAGE_ERROR)
        if usage or (stop is not None and stop.kind == "internal"):
            self._raise_for_end()

    # --- running -------------------------------------------------------------------------------------------------

    def show(self, item: VirtualItem, following: pytest.Item | None = None) -> None:
        """Show one test: wait for what the worker says of it, and hand it to pytest's own hooks.

        Args:
            item: The test.
            following: What comes next, where that is decided on the way: in a worker of pytest-xdist.
        """
        if not self._done:
            self.places.leave_one()
        if self.lost is None:
            try:
                if self.boot.crew and not self._ask(item, following):
                    self._not_collected(item)
                    return
                self._show(item)
            except ENDS as error:
                self._lose(error)
                if self.link.stop is not None and item.index in self.hearing.shown:
                    return  # the test that ended it has begun, and pytest says no more of such a test
            else:
                return
        if self.lost is not None and self.lost.shown and item.index not in self._done:
            self._not_run(item, self.lost.reason)

    def _ask(self, item: VirtualItem, following: pytest.Item | None) -> bool:
        self._go_on(item)
        then = following.index if isinstance(following, VirtualItem) else None
        if isinstance(following, VirtualItem) and following.stage != item.stage:
            # In a container of its own a test leaves nothing to another one.
            then = wire.UNKNOWN if self._fresh == "session" else None
        elif then is not None and self._succession.is_over(then, self._nodeids):
            self._succession.look_ahead()
            then = None
        return self.link.run(item.index, then)

    def _not_collected(self, item: VirtualItem) -> None:
        self._not_run(item, f"a fresh worker of stage {self.name} did not collect this test again")

    def _not_run(self, item: VirtualItem, reason: str) -> None:
        self._done.add(item.index)
        hook = self._config.hook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        report = crash.report(item.nodeid, item.location, item.keywords_seen, reason, "setup")
        report.__dict__[NOT_RUN] = True
        self._show_last(item, report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def _show_last(self, item: VirtualItem, report: pytest.TestReport) -> None:
        """Show the failure of a test of which nothing more is heard."""
        hook = self._config.hook
        hook.pytest_runtest_logreport(report=self._marked(report))
        if not self.alone:
            # A JUnit file has the properties of a test from the last of its phases, and one of them is its stage.
            end = decode.passed_report(
                item.nodeid, item.location, item.keywords_seen, "teardown", report.start, report.stop, 0.0
            )
            hook.pytest_runtest_logreport(report=self._marked(end))

    def _marked(self, report: pytest.TestReport) -> pytest.TestReport:
        if report.failed:
            self._failures += 1
            self._keeping.blame(f"{report.nodeid} failed")
        if not self.alone:
            report.user_properties = [*report.user_properties, ("stage", self.name)]
            if not self.boot.crew:  # else the controller does it, which shows the report
                newer_ids.mend(self._config, report)
        if self._pollution is not None and report.when == "teardown":
            self._pollution.mark(report)
        return report

    def _lose(self, error: BaseException) -> None:
        """Among several stages, an end of one is not that of the run."""
        if self.alone or self.hearing.interrupted or self.launch.signals.noted() is not None:
            raise error
        self.error = error
        stop = self.link.stop
        reason = str(getattr(error, "msg", "") or " ".join(map(str, error.args)) or "interrupted").strip()
        if stop is not None and stop.kind in ("failed", "interrupted"):
            # It has stopped as it was asked to: at a number of failures, or step by step.
            self.summary.notes.append(f"the rest of its tests was not run: {reason}")
            self.lost = Lost(reason, shown=False)
            return
        if isinstance(error, pytest.exit.Exception) and error.returncode is not None:
            self.final = int(error.returncode)
        elif isinstance(error, pytest.UsageError):
            self.final = int(pytest.ExitCode.USAGE_ERROR)
        self.failed = True
        self.lost = Lost(f"stage {self.name} has ended before this test: {reason}")

    def _show(self, item: VirtualItem) -> None:
        self._go_on(item)
        hook = self._config.hook
        index = item.index
        started = told = over = False
        while True:
            message = self.hearing.receive()
            if isinstance(message, wire.Passed) and message.index == index:
                told, over = told or message.when == "call", message.when == "teardown"
                report = decode.passed_report(
                    item.nodeid,
                    item.location,
                    item.keywords_seen,
                    message.when,
                    message.start,
                    message.stop,
                    message.duration,
                )
                self._services.add(report)
                hook.pytest_runtest_logreport(report=self._marked(report))
            elif isinstance(message, wire.Pollution) and message.index == index:
                if self._pollution is not None:
                    self._pollution.hear(message.fields, item.nodeid, self._stage)
            elif isinstance(message, wire.Start) and message.index == index:
                started = True
                if index not in self.hearing.shown:  # else it has been begun on an engine that was lost
                    self.hearing.shown.add(index)
                    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            elif isinstance(message, wire.Finish) and message.index == index:
                hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
                self._done.add(index)
                return
            elif isinstance(message, wire.Report):
                if message.index == index:
                    over = message.report.get("when") == "teardown"
                    told = (
                        told
                        or message.report.get("when") == "call"
                        or message.report.get("outcome") != "passed"
                    )
                    self._report(item, message)
                else:
                    self._late(message)
            elif isinstance(message, (wire.Start, wire.Passed, wire.Finish)):
                raise pytest.UsageError(
                    f"the worker of stage {self.name} ran test {message.index} when {index} was due"
                )
            elif isinstance(message, crash.Death):
                if message.engine_gone and not over and not told:
                    started = False  # no fault of the test: it runs once more, elsewhere
                self._crashed(item, message, started, over or (told and message.engine_gone))
                return
            elif isinstance(message, wire.Debugged):
                self._debugged()
            elif isinstance(message, wire.Stop):
                ends.raise_for_stop(message, self.name)
            elif isinstance(message, wire.Finished):
                self._raise_for_end()
            elif message is not None:
                self.hearing.aside(message)

    def _report(self, item: VirtualItem, message: wire.Report) -> None:
        report = decode.test_report(self._config, message.report, item.nodeid, item.location)
        if message.status is not None:
            category, letter, word = message.status
            status = (category, letter, (word[0], word[1]) if isinstance(word, list) else word)
            report.__dict__[STATUS] = status  # reports take extra attributes
        self._services.add(report)
        if not self.alone:
            report.nodeid += self.suffix
            report.location = (*report.location[:2], report.location[2] + self.suffix)
        if self.boot.crew:
            report.nodeid = item.nodeid  # pytest-xdist appends groups
        self._last = report
        self._config.hook.pytest_runtest_logreport(report=self._marked(report))

    def _debugged(self) -> None:
        """The last failure was shown by the debugger; pytest's summary leaves such out."""
        if self._last is not None:
            self._last.__dict__["_pdbshown"] = True

    def _late(self, message: wire.Report) -> None:
        """What a test had left to others of its file has failed to end, after tests of another stage."""
        if self.collection is not None and message.index in self._done:
            item = self.collection.items[message.index]
            with crew.speaking_of(self._config, item):
                self._report(item, message)

    def _crashed(self, item: VirtualItem, death: crash.Death, started: bool, over: bool) -> None:
        """The worker died: the test that was running failed, and the cause is told."""
        self._succession.death = death
        if death.container_gone and self._pollution is not None:
            self._pollution.next_container(self._stage)
        hook = self._config.hook
        if self.link.finished is not None:
            self._raise_for_end()
        if not started:
            # Between two tests: this one has not run; the next worker takes it.
            if not death.engine_gone:
                self.failed = True
                self._keeping.blame("its worker died between two tests")
                self.summary.notes += crash.text("what came between two tests", self.name, death).splitlines()
            self._go_on(item)
            if self.boot.crew and not self.link.run(item.index, None):
                self._not_collected(item)
                return
            self._show(item)
            return
        if over:
            # All its phases have been told: whatever came next is to blame.
            if death.engine_gone:
                self.summary.notes.append(f"the engine was lost at the end of {item.nodeid} ({death.cause})")
            else:
                self.failed = True
                self._keeping.blame(f"its worker died after {item.nodeid}")
                text = crash.text(f"what came after {item.nodeid}", self.name, death)
                self.summary.notes += text.splitlines()
        else:
            if self._pollution is not None:
                self._pollution.died(self._stage, item.nodeid)
            text = crash.text(item.nodeid, self.name, death)
            report = crash.report(item.nodeid, item.location, item.keywords_seen, text)
            self._services.add(report)
            self._show_last(item, report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        self._done.add(item.index)

    def _go_on(self, item: VirtualItem) -> None:
        """Have a fresh worker for the rest of the suite, if the last one has died or the next container is due."""
        over = self._succession.is_over(item.index, self._nodeids)
        if self._succession.death is None and not over:
            return
        if self._succession.death is None:
            self._end_session()
        session = item.session
        remaining = [index for index in self._indices(session.items) if index not in self._done]
        if self.boot.crew:
            remaining = []  # others may run them
        failures = session.testsfailed if self.alone else self._failures
        try:
            self._succession.go_on(item.index, remaining, self._nodeids, failures)
        finally:
            self.final = self._succession.final or self.final
        if over:
            self.summary.next_container()
            if self._pollution is not None:
                self._pollution.next_container(self._stage)
            self.hearing.again = True

    def _end_session(self) -> None:
        """The current container has run its tests: hear its session out, whose end may be that of the run."""
        link = self.link
        if self.boot.crew:
            link.place.client.send(wire.Run(None, None))
        death = self.hearing.until_finished(stopped=False)
        self._leave(death)
        finished = link.finished
        if finished is not None:
            if link.stop is not None or finished.status not in ends.OVER:
                self._raise_for_end()
            self._statuses.append(finished.status)

    # --- early ends ----------------------------------------------------------------------------------------------

    def _raise_for_end(self) -> NoReturn:
        ends.raise_for_end(self.link, self._outside())

    def _outside(self) -> list[str]:
        return ends.outside(self.launch.settings.root, self._config.invocation_params.dir, self._words)

    def tell_interrupt(self) -> None:
        """Interrupt the inside, which has INTERRUPT_S seconds to react: see :meth:`interrupted`."""
        self.hearing.interrupted = True
        if self.started:
            self.link.place.client.send(wire.Interrupt())

    def interrupted(self, seconds: float) -> list[Any] | None:
        """Wait for the interrupted inside; see :func:`~pytest_envpar.session.breaking_off.break_off`."""
        if not self.started:
            return None
        items = self.collection.items if self.collection is not None else []
        return break_off(self.link, self.hearing, self.summary, seconds, items, self._failed)

    def _failed(self, item: VirtualItem, reason: str) -> None:
        self._show_last(item, crash.report(item.nodeid, item.location, item.keywords_seen, reason))

    # --- end -----------------------------------------------------------------------------------------------------

    def hear_out(self, *, ended_here: bool, stopping: bool) -> None:
        """Hear the worker to its end. ``failed`` says afterwards whether that was a good one.

        Args:
            ended_here: This side ended the run on its own, so that the inside has to be told.
            stopping: A test or a hook on this side has asked for the end.
        """
        if not self.started:
            return
        link = self.link
        at_end = self._at_end
        self._ended_here = ended_here
        # It may still wait for its turn, which will not come.
        self.plan([])
        if self.boot.crew:
            link.place.client.send(wire.Run(None, None))
        if stopping and not self.alone and not self._stops_itself():
            # Another stage has ended the run. What this one still prints of that is of no use to anybody; what its
            # plugins say at the end is.
            self.halted = True
            link.hold()
            link.place.client.send(wire.Interrupt())
            self.hearing.drain(INTERRUPT_S)
            if link.stop is not None and not link.exited:
                self.hearing.drain(ENDING_S)
            if not link.exited:
                self.summary.notes.append(
                    "the end of its session was not waited for, because the run was stopped"
                )
            return
        if link.finished is None and not link.exited:
            if ended_here and (link.stop is None or self.hearing.interrupted):
                link.place.client.send(wire.Interrupt())
                self.hearing.drain(INTERRUPT_S)
            else:
                at_end = self.hearing.until_finished(stopped=stopping)
        self._leave(at_end)
        if link.finished is not None and link.finished.status == int(pytest.ExitCode.USAGE_ERROR):
            self.summary.notes += self._outside()

    def _leave(self, at_end: crash.Death | None) -> None:
        """Wait for the worker to leave after its session, and tell if that was not a good end.

        Args:
            at_end: The worker's death, if the session did not end before it.
        """
        link = self.link
        if link.finished is not None and not link.exited and not self.hearing.interrupted:
            death = self.hearing.until_exit()
            if death is None:
                self.summary.notes.append(
                    f"the worker did not leave within {self.hearing.exit_s:.0f} seconds after its session "
                    "and was removed"
                )
            elif death.cause.startswith("killed"):
                self.summary.notes.append(f"the worker died after its session: {death.cause}")
                self.failed = True
        elif at_end is not None and link.finished is None and at_end.engine_gone:
            self.summary.notes.append(f"the engine was lost at the end of the session ({at_end.cause})")
        elif at_end is not None and link.finished is None:
            self.summary.notes += crash.text("the end of the session", self.name, at_end).splitlines()
            self.failed = True
            self._keeping.blame("its worker died at the end of the session")

    def _stops_itself(self) -> bool:
        """Whether the inside knows, too, that there have been failures enough."""
        most = self._config.getoption("maxfail", 0)
        return self.link.stop is not None or self.link.exited or bool(most and self._failures >= most)

    @property
    def verdict(self) -> int | None:
        """The exit status of the session inside, if it is that of the whole suite: no worker was lost on the way."""
        finished = None if self.halted else self.link.finished
        if finished is not None and self.errors and not self.alone and finished.status == _INTERRUPTED:
            return int(pytest.ExitCode.TESTS_FAILED)  # by errors of its collection; others went on
        if finished is None or self.link.restarts:
            return None
        return ends.one_status(int(pytest.ExitCode.OK), [*self._statuses, finished.status])

    def look(self) -> None:
        """Ask the container, before it goes, what the suite left in it."""
        self.summary.unseen = len(self.hearing.unseen)
        self.summary.notes += self._services.notes()
        self.places.settle()
        if self.started and not self.hearing.interrupted:
            if self.places.site is not None:
                self._look(self.places.site)
            output = self.link.finished.output if self.link.finished is not None else {}
            self.summary.shadowed(output.get("shadowed") or ())
            if self._pollution is not None:
                self._pollution.compare(self.summary.changes, self._stage)

    def _look(self, site: Site) -> None:
        self.summary.look(site, self.launch.settings)

    def keep(self) -> None:
        """Let the container stay, if it was asked for and there is reason to."""
        why = self._unusual()
        if why is not None:
            self._keeping.blame(why)
        if self.started and not self.hearing.interrupted:
            self.places.leave_one()  # where there was no test to begin it beside
        self.places.keep()
        self.summary.kept = self._keeping.lines()

    def _unusual(self) -> str | None:
        """In which way the inside ended that no test shows."""
        stop, finished = self.link.stop, self.link.finished
        if stop is not None and stop.kind in ("exit", "internal"):
            return f"pytest ended with {stop.text.splitlines()[-1]}" if stop.text else "pytest ended early"
        if self.failed or not self.started:
            return "its session did not end as one should"
        if self.hearing.interrupted or self.halted or self._ended_here:
            return None
        if finished is None or finished.status not in _GOOD:
            return "its session did not end as one should"
        return None
