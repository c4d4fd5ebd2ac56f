"""One stage run as a pytest plugin: starts the worker, shows what it does as pytest's own, cleans up."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_envpar import options
from pytest_envpar.config import check_stage, find_config, get_stage, load_settings, refuse_not_yet
from pytest_envpar.errors import ConfigError, EngineError, EnvparError, UsageError
from pytest_envpar.session import crash, decode
from pytest_envpar.session.items import Collection, VirtualItem
from pytest_envpar.session.launch import Ahead
from pytest_envpar.session.link import CREDIT, MAX_RESTARTS, Ended, Link, Place
from pytest_envpar.session.names import shown
from pytest_envpar.session.signals import Signals, exit_status
from pytest_envpar.session.stage_place import StagePlaces
from pytest_envpar.session.summary import Summary
from pytest_envpar.worker.agent import wire

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from pytest_envpar.config.model import Settings, Stage

INTERRUPT_S = 0.9
DUMP_S = 0.4
EXIT_S = 5.0
CANCEL_S = 10.0
SLICE_S = 0.1
"""How often a run that waits for its worker looks whether a signal came."""
_STATUS = "envpar_status"
_OVER = (int(pytest.ExitCode.OK), int(pytest.ExitCode.TESTS_FAILED), int(pytest.ExitCode.NO_TESTS_COLLECTED))


class StageRun:
    """Owns one run in one stage, from the first container to the last removal.

    It changes as the run goes on; pytest calls its hooks in the order of this file.
    """

    def __init__(
        self,
        config: pytest.Config,
        request: options.Request,
        settings: Settings,
        stage: Stage,
        known: Any,
    ) -> None:
        self._config = config
        self._request = request
        self._settings = settings
        self._stage = stage
        self._selection = known
        self.places = StagePlaces(
            settings, stage, request.engine, options.cache_dir(), dict(os.environ), request.lock
        )
        self._signals = Signals(f"stage {stage.name}")
        self._link = Link(self.places, stage.name, self._worker_options)
        self._ahead = Ahead(self.places.begin)
        self._collection: Collection | None = None
        self._nodeids: list[str] = []
        self._done: set[int] = set()
        self._shown: set[int] = set()
        self._unseen: set[int] = set()
        self._death: crash.Death | None = None
        self._interrupted = False
        self._died_aside = False
        self._at_end: crash.Death | None = None
        self._final: int | None = None
        self._summary = Summary(stage.name)

    @classmethod
    def prepare(cls, config: pytest.Config, request: options.Request, known: Any) -> StageRun:
        """Read the configuration and begin to start the first container.

        Args:
            config: pytest's configuration; its root is where the search for ours begins.
            request: What the user asked.
            known: pytest's namespace with all that the host knows of the command line.

        Raises:
            UsageError: There is no such stage, or its configuration is wrong.
        """
        here = config.invocation_params.dir
        # A path outside on the command line moves pytest's root out, too; it is told below, with the project's name.
        file = find_config(config.rootpath) or find_config(here)
        if file is None:
            raise ConfigError(
                f"{request.origin}: no stages are configured: neither envpar.toml nor [tool.envpar] in pyproject.toml "
                f"was found in {config.rootpath} or above",
                hint=f"add a table [tool.envpar.stages.{request.stage}] with an image; see `envpar init`",
            )
        settings = load_settings(file)
        stage = get_stage(settings, request.stage)
        refuse_not_yet(settings, stage)
        check_stage(stage)
        if here != settings.root and settings.root not in here.parents:
            raise UsageError(
                f"{request.origin}: the working directory {here} is outside of the project {settings.root}",
                hint="run pytest inside the project: what lies outside is not in the container",
            )
        run = cls(config, request, settings, stage, known)
        run._signals.take()
        # Also where pytest gives up before it has configured itself.
        config.add_cleanup(run._close)
        return run

    def _worker_options(self, place: Place) -> Mapping[str, Any]:
        from _pytest.config import create_terminal_writer  # noqa: TID251 - the host's colours; no public name

        # Without the terminal plugin there are no colours to ask for, and nothing is printed.
        writer = (
            create_terminal_writer(self._config, sys.stdout)
            if hasattr(self._config.option, "color")
            else None
        )
        paths = place.paths
        cwd = paths.to_container(self._config.invocation_params.dir)
        return {
            "args": [paths.argument(arg) for arg in self._request.args],
            "cwd": str(cwd or paths.container),
            "root": str(paths.container),
            "env": options.environment(),
            "module": self._request.module,
            "width": writer.fullwidth if writer is not None else 80,
            "markup": writer is not None and writer.hasmarkup,
            "relay": self._relays,
            "autostart": not self._others_select(),
            "credit": CREDIT,
            "cache_dir": None
            if self._relays or not self._config.pluginmanager.has_plugin("cacheprovider")
            else self.places.scratch,
            "cache": self._cache_values(),
            "pycache": self.places.pycache,
            "bytecode": self.places.bytecode,
            "own_options": [[option.name, option.kind] for option in (*options.OPTIONS, options.SHORT)],
            "stage": self._stage.name,
        }

    def _others_select(self) -> bool:
        """Whether a plugin on the host may drop or reorder items, so that the inside has to wait for a plan."""
        hook = self._config.hook.pytest_collection_modifyitems
        return any(
            not implementation.function.__module__.startswith(("_pytest.", "pytest_envpar."))
            for implementation in hook.get_hookimpls()
        )

    def _cache_values(self) -> dict[str, Any]:
        """What only the host's cache knows and the selection inside needs."""
        asked = self._selection
        wanted = {
            "cache/lastfailed": asked.lf or asked.failedfirst if hasattr(asked, "lf") else False,
            "cache/nodeids": getattr(asked, "newfirst", False),
            "cache/stepwise": self._stepwise,
        }
        cache = getattr(self._config, "cache", None)
        if cache is None and any(wanted.values()):
            from _pytest.cacheprovider import Cache  # noqa: TID251 - before configure there is no other way

            cache = Cache.for_config(self._config, _ispytest=True)
        values = {key: cache.get(key, None) for key, needed in wanted.items() if needed and cache is not None}
        return {key: value for key, value in values.items() if value is not None}

    @property
    def _stepwise(self) -> bool:
        asked = self._selection
        return any(getattr(asked, name, False) for name in ("stepwise", "stepwise_skip", "stepwise_reset"))

    @property
    def _relays(self) -> bool:
        """Whether the run only lists what the inside knows: then the inside prints all of it."""
        asked = self._config.option
        return any(getattr(asked, name, False) for name in ("showfixtures", "show_fixtures_per_test"))

    # --- start ---------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self) -> int | None:
        """Boot the worker; if it has no session to show (a usage error inside), pass on what it said."""
        from pytest_envpar.session.host_side import explain

        try:
            self._ahead.result()
            answer = self._link.begin()
            if isinstance(answer, Ended) or self._relays:
                return self._relay()
        except EnvparError as error:
            self._clean()
            return explain(error)
        except BaseException:
            self._clean()
            raise
        self._signals.phase = "running"
        return None

    def _relay(self) -> int:
        """Let the inside print and end."""
        link = self._link
        link.release()
        while not link.exited:
            link.receive()
        self._clean()
        if link.stop is not None and link.stop.kind == "internal":
            _write_internal_error(link.stop.text)
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
        self._header_lines: list[str] = []
        self._live()
        for early in link.early:
            self._aside(early)
        while True:
            message = self._receive()
            if isinstance(message, wire.CollectFailed):
                report = decode.collect_report(config, message.report)
                config.hook.pytest_collectreport(report=report)
            elif isinstance(message, wire.Collected):
                break
            elif isinstance(message, crash.Death):
                self._died_while_collecting(session, message)
                return True
            elif message is not None:
                self._aside(message)
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
        if self._others_select() and not config.option.collectonly and link.stop is None:
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
            self._at_end = self._drain_until_finished(session)
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
            message = self._receive()
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
                self._shown.add(index)
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
                self._raise_for_stop(message)
            elif isinstance(message, wire.Finished):
                self._raise_for_end()
            elif message is not None:
                self._aside(message)

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

    # --- messages that belong to no test -------------------------------------------------------------------------

    def _receive(self, timeout_s: float | None = None) -> wire.Message | crash.Death | None:
        """The next message; None if the time is up. Does not return if a signal came."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            number = self._signals.noted()
            if number is not None and not self._interrupted:
                self._interrupt(number)
            message = self._link.receive(SLICE_S)
            if message is not None or (deadline is not None and time.monotonic() >= deadline):
                return message

    def _aside(self, message: wire.Message) -> None:
        config = self._config
        if isinstance(message, wire.Warned):
            location = message.fields.get("location")
            config.hook.pytest_warning_recorded.call_historic(
                kwargs={
                    "warning_message": decode.warning(message.fields),
                    "when": message.fields.get("when"),
                    "nodeid": shown(str(message.fields.get("nodeid") or "")),
                    "location": tuple(location) if location else None,
                }
            )
        elif isinstance(message, wire.Text):
            reporter = config.pluginmanager.get_plugin("terminalreporter")
            if message.where in ("summary", "newline"):
                self._summary.inside.append(message.text if message.where == "summary" else None)
            elif reporter is not None:
                reporter.write(message.text, flush=True)
            else:
                sys.stdout.write(message.text)
        elif isinstance(message, wire.Attribute):
            self._attribute(message)

    def _attribute(self, message: wire.Attribute) -> None:
        from _pytest.junitxml import xml_key  # noqa: TID251 - where pytest keeps its XML writer

        xml = self._config.stash.get(xml_key, None)
        if xml is None:
            return
        if message.nodeid:
            xml.node_reporter(shown(message.nodeid)).add_attribute(message.name, message.value)
        else:
            xml.add_global_property(message.name, message.value)

    def _live(self) -> None:
        """From here on, what tests write past pytest's capture appears as it does in a local run."""
        self._link.release()

    # --- early ends ----------------------------------------------------------------------------------------------

    def _raise_for_stop(self, stop: wire.Stop) -> NoReturn:
        session = pytest.Session
        if stop.kind == "exit":
            pytest.exit(stop.text, stop.returncode)
        if stop.kind == "failed":
            raise session.Failed(stop.text)  # pytest_sessionfinish makes it the session's own reason
        if stop.kind == "keyboard":
            _keyboard_interrupt(stop.location)
        if stop.kind == "internal":
            _write_internal_error(stop.text)
            pytest.exit(f"pytest failed inside stage {self._stage.name}", int(pytest.ExitCode.INTERNAL_ERROR))
        raise session.Interrupted(stop.text)

    def _raise_for_end(self) -> NoReturn:
        """The inside ended while the host expected more."""
        link = self._link
        if link.stop is not None:
            self._raise_for_stop(link.stop)
        status = link.finished.status if link.finished is not None else int(pytest.ExitCode.INTERNAL_ERROR)
        if status == int(pytest.ExitCode.USAGE_ERROR):
            lines = self._usage_lines()
            raise pytest.UsageError(*lines)  # with no lines if the inside has written them already
        pytest.exit(f"the session inside stage {self._stage.name} ended with status {status}", status)

    def _usage_lines(self) -> list[str]:
        link = self._link
        deadline = time.monotonic() + EXIT_S
        while not link.exited and time.monotonic() < deadline:
            link.receive(0.2)
        text = "".join(text for _, text in link.held or ())
        lines = [line.removeprefix("ERROR: ") for line in text.splitlines() if line.strip()]
        lines += self._outside()
        return lines if lines or link.held is None else ["a usage error inside the stage"]

    def _outside(self) -> list[str]:
        """What a usage error inside cannot know: paths on the command line that are on this side only."""
        root, here = self._settings.root, self._config.invocation_params.dir
        named = (str(word) for word in self._selection.file_or_dir)
        # Not Path.exists(): words that are too long for a path raise there.
        paths = [word for word in named if os.path.exists(here / word.partition("::")[0])]  # noqa: PTH110
        return [
            f"{path} is outside of the project {root}: it is not in the container"
            for path in paths
            if not _inside(root, here / path.partition("::")[0])
        ]

    def _interrupt(self, number: int) -> NoReturn:
        """Ctrl-C: as locally, but a test that does not react costs no more than two seconds."""
        self._interrupted = True
        self._signals.phase = "ending"
        link = self._link
        link.place.client.send(wire.Interrupt())
        running = link.running
        self._drain(INTERRUPT_S)
        if not link.exited and link.finished is None:
            link.place.client.send(wire.Dump())
            death = self._drain(DUMP_S)
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
        _keyboard_interrupt(location or [link.collecting or f"<stage {self._stage.name}>", 1])

    def _item(self, index: int | None) -> VirtualItem | None:
        if index is None or self._collection is None or not 0 <= index < len(self._collection.items):
            return None
        return self._collection.items[index]

    def _drain(self, seconds: float) -> crash.Death | None:
        """Read on without showing tests, until the worker has left or the time is up."""
        link = self._link
        deadline = time.monotonic() + seconds
        while not link.exited:
            message = link.receive(max(0.0, deadline - time.monotonic()))
            if message is None:
                return None
            if isinstance(message, crash.Death):
                return message
            if isinstance(message, wire.Start):
                if message.index not in self._shown:
                    self._unseen.add(message.index)
            elif isinstance(message, (wire.Warned, wire.Text, wire.Attribute)):
                self._aside(message)
        return None

    # --- end -----------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True, hookwrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, None]:
        """Hear the worker out, take its verdict, look at what the suite left, and begin to remove it all."""
        try:
            self._hear_out(session)
            self._take_over_reason(session)
        except KeyboardInterrupt:
            number = self._signals.noted() or signal.SIGINT
            self._final = exit_status(number)
            self._summary.notes.append(f"{signal.Signals(number).name} while the session inside was ending")
        self._signals.phase = "ending"
        self._summary.unseen = len(self._unseen)
        if not self._interrupted:
            self._summary.look(self.places, self._settings, self._link)
        removal = threading.Thread(target=self._clean, name="envpar-removal")
        removal.start()
        try:
            yield
        finally:
            # pytest sums up only what ended in one of its usual ways, so the status of another comes after that.
            if self._final is not None:
                session.exitstatus = self._final
            removal.join()

    def _take_over_reason(self, session: pytest.Session) -> None:
        """What the inside stopped for is what pytest's last lines tell."""
        stop = self._link.stop
        if stop is not None and stop.kind == "failed" and not session.shouldfail:
            session.shouldfail = stop.text

    def _hear_out(self, session: pytest.Session) -> None:
        link = self._link
        at_end = self._at_end
        if link.finished is None and not link.exited:
            if self._stopped_here(session):
                link.place.client.send(wire.Interrupt())
                self._drain(INTERRUPT_S)
            else:
                at_end = self._drain_until_finished(session)
        if link.finished is not None and int(session.exitstatus) in _OVER and link.restarts == 0:
            session.exitstatus = link.finished.status
        if link.finished is not None and not link.exited and not self._interrupted:
            death = self._drain_to_exit()
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

    def _drain_until_finished(self, session: pytest.Session) -> crash.Death | None:
        """Read on until the session inside is over; its death if it dies before."""
        link = self._link
        stopped = bool(session.shouldfail or session.shouldstop)
        while link.finished is None and not link.exited:
            message = self._receive()
            if isinstance(message, crash.Death):
                return message
            if isinstance(message, wire.Start) and message.index not in self._shown:
                self._unseen.add(message.index)
                if stopped:
                    # Something on this side ended the run that the inside knows nothing of.
                    stopped = False
                    link.place.client.send(wire.Interrupt())
            elif isinstance(message, (wire.Warned, wire.Text, wire.Attribute)):
                self._aside(message)
        return None

    def _drain_to_exit(self) -> crash.Death | None:
        """Wait until the process inside has left, but not for ever."""
        deadline = time.monotonic() + EXIT_S
        while not self._link.exited:
            message = self._receive(max(0.0, deadline - time.monotonic()))
            if isinstance(message, crash.Death):
                return message
            if message is None:
                return None
            if isinstance(message, (wire.Warned, wire.Text, wire.Attribute)):
                self._aside(message)
        return None

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Sections of plugins inside, at the place in the order of plugins that conftests have in a local run."""
        self._summary.write_inside(terminalreporter)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Give the host's cache what only the inside knows; leave nothing behind."""
        finished = self._link.finished
        cache = getattr(config, "cache", None)
        if finished is not None and cache is not None and self._stepwise:
            for key, value in dict(finished.output.get("cache") or {}).items():
                if key == "cache/stepwise":
                    cache.set(key, value)

    def _close(self) -> None:
        self._clean()
        self._signals.restore()

    def _clean(self) -> None:
        self._signals.phase = "ending"
        if not self._ahead.abandon(0):
            self.places.cancel()
            if not self._ahead.abandon(CANCEL_S):
                sys.stderr.write("envpar: the engine is still busy; the next run removes what it leaves\n")
        self.places.close()


def _write_internal_error(text: str) -> None:
    """An error of pytest or a plugin inside, as pytest writes its own."""
    for line in text.splitlines():
        sys.stdout.write(f"INTERNALERROR> {crash.escaped(line)}\n")


def _inside(root: Path, path: Path) -> bool:
    resolved = Path(os.path.normpath(path))
    return resolved == root or root in resolved.parents


def _keyboard_interrupt(location: Any) -> NoReturn:
    """Raise KeyboardInterrupt as if from ``location`` inside, so that pytest names that place and not ours."""
    if isinstance(location, (list, tuple)) and len(location) == 2 and isinstance(location[1], int):
        path, line = str(location[0]), min(max(location[1], 1), 1_000_000)
        exec(compile("\n" * (line - 1) + "raise KeyboardInterrupt", path, "exec"), {"__name__": "inside"})
    raise KeyboardInterrupt
