"""A stage run as a pytest plugin: one ordinary session over what happens in one stage or in several."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_envpar import options
from pytest_envpar.errors import EnvparError
from pytest_envpar.session import crash, ends, foreign, pool, suffix
from pytest_envpar.session.breaking_off import INTERRUPT_S
from pytest_envpar.session.console import Console
from pytest_envpar.session.controller import OUTPUT
from pytest_envpar.session.environment import Environment
from pytest_envpar.session.items import VirtualItem
from pytest_envpar.session.launch import end_all
from pytest_envpar.session.link import Ended
from pytest_envpar.session.memory import Memory
from pytest_envpar.session.one_stage import STATUS, OneStage
from pytest_envpar.session.parity import Parity, narrowed
from pytest_envpar.session.signals import exit_status

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from pytest_envpar.config.model import Settings
    from pytest_envpar.session.launch import Launch
    from pytest_envpar.session.pollution import PollutionReport


class StageRun:
    """Owns one run, from the first container to the last removal; what happens in a stage is the stage's.

    It changes as the run goes on; pytest calls its hooks in the order of this file.

    Args:
        config: pytest's configuration.
        request: What the user asked.
        launched: The stages, with their first containers being started.
        known: pytest's namespace with all that the host knows of the command line.
        names: All stages that were asked for, also those of which the command line names no test.
    """

    def __init__(
        self,
        config: pytest.Config,
        request: options.Request,
        launched: Sequence[Launch],
        known: Any,
        names: Sequence[str],
    ) -> None:
        self._config = config
        self._signals = launched[0].signals
        self._quiet = bool(getattr(known, "no_header", False))  # absent with -p no:terminal
        self._pollution = _pollution(config) if request.pollution else None
        self._alone = len(names) == 1
        # Several stages, or workers of pytest-xdist, would read each other's lines.
        self._console = Console() if self._alone and not options.is_crew(sys.argv) else None
        self._stages = [
            OneStage(config, request, each, known, names, self._interrupt, self._pollution, self._console)
            for each in launched
        ]
        self._by_name = {stage.name: stage for stage in self._stages}
        # A worker of pytest-xdist runs one test at a time, so that no stage has to wait for others.
        at_once = len(self._stages) if self._crew else max(2, os.cpu_count() or 1)
        self._waves = _waves(self._stages, at_once)
        for wave in self._waves[1:]:
            for stage in wave:
                stage.boot.waits = True
        self._final: int | None = None
        self._parity = Parity(config, list(self._by_name)) if len(launched) > 1 else None
        self._narrowed = narrowed(known, names)
        self._given_up: str | None = None
        self._memory = Memory(launched[0].settings)
        if self._console is not None:
            config.add_cleanup(self._console.close)

    # --- start ---------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self) -> int | None:
        """Boot the workers; if there is no session to show (a usage error inside), pass on what was said."""
        from pytest_envpar.session.host_side import explain, status_of

        try:
            errors = [error for error in map(self._boot, self._stages) if error is not None]
            answers = [(stage, self._begin(stage, errors)) for stage in self._stages]
            ended = [stage for stage, answer in answers if isinstance(answer, Ended)]
            heard = [stage for stage in self._stages if stage.lost is None]
            if self._crew and len(ended) == len(heard):
                lines = [line for error in errors for line in error.lines()]
                lines += [stage.told() for stage in ended]
                lines += [line for stage in self._stages for line in stage.summary.kept]
                self._give_up(lines, max(map(status_of, errors), default=int(pytest.ExitCode.USAGE_ERROR)))
                return None
            if not heard:
                self._end()
                status = max(map(explain, errors))
                for line in (line for stage in self._stages for line in stage.summary.kept):
                    sys.stderr.write(f"{'' if line.startswith(' ') else 'envpar: '}{crash.escaped(line)}\n")
                return status
            if self._stages[0].boot.relays or len(ended) == len(heard):
                return max(self._relay(stage) for stage in heard)
            for stage in ended:
                stage.not_started(stage.told())
        except BaseException:
            self._end()
            raise
        self._signals.phase = "running"
        return None

    def _give_up(self, lines: Sequence[str], status: int) -> None:
        """In a worker of pytest-xdist: it has to have a session, in which it tells its controller to end the run."""
        self._given_up = (
            "\n".join(line for line in lines if line) or f"no session in stage {self._stages[0].name}"
        )
        self._final = status
        self._end()

    def _boot(self, stage: OneStage) -> EnvparError | None:
        try:
            stage.boot_worker()
        except EnvparError as error:
            stage.not_started("\n".join(error.lines()))
            return error
        return None

    def _begin(self, stage: OneStage, errors: list[EnvparError]) -> Any:
        if stage.lost is not None:
            return None
        try:
            return stage.begin()
        except EnvparError as error:
            errors.append(error)
            stage.not_started("\n".join(error.lines()))
        return None

    def _relay(self, stage: OneStage) -> int:
        if not self._alone:
            print(f"envpar: stage {stage.name}", flush=True)
        return stage.relay()

    def _end(self) -> None:
        """Remove everything, of all stages at once."""
        end_all([stage.launch for stage in self._stages])

    @property
    def settings(self) -> Settings:
        """The project's configuration."""
        return self._stages[0].launch.settings

    def environments(self) -> list[Environment]:
        """What the run's reports say of its stages."""
        return [
            Environment(
                stage.name,
                stage.places.ground,
                str(stage.facts.get("python", "")),
                "" if stage.lost is None else stage.lost.reason,
            )
            for stage in self._stages
        ]

    def _take_back(self) -> None:
        """The terminal is this side's again, for good."""
        if self._console is not None:
            self._console.close()

    @property
    def _crew(self) -> bool:
        return self._stages[0].boot.crew

    @pytest.hookimpl(hookwrapper=True)
    def pytest_sessionstart(self, session: pytest.Session) -> Generator[None, Any, None]:
        """Write the header: which stage, which exact image, and what the inside says of itself."""
        manager = session.config.pluginmanager
        if self._parity is not None and not self._crew:
            manager.register(self._parity, "envpar-parity")
        if self._pollution is not None:
            manager.register(self._pollution, "envpar-pollution")
        for stage in self._stages:
            manager.register(stage.summary, f"envpar-summary-{stage.name}")
        yield
        reporter = manager.get_plugin("terminalreporter")
        if reporter is None:
            return
        # Of the host's own start: the project's settings are judged inside.
        reporter.stats.pop("warnings", None)
        if reporter.verbosity < 0 or self._quiet:
            return
        cache = manager.get_plugin("cacheprovider")
        own = cache.pytest_report_header(session.config) if cache is not None else None
        for stage in self._stages:
            if stage.lost is not None:
                reporter.write_line(f"envpar: {crash.escaped(stage.lost.reason.splitlines()[0])}")
                continue
            facts = stage.facts
            said = (*stage.places.header(), *facts.get("header", ()))
            python = (
                f"platform {facts.get('platform')} -- Python {facts.get('python')}, pytest-{facts.get('pytest')}, "
                f"pluggy-{facts.get('pluggy')}"
                + (f" -- {facts.get('executable')}" if reporter.verbosity > 0 else "")
            )
            # With several stages the line that names one comes first.
            lines = [python, *([own] if own else []), *said] if self._alone else [said[0], python, *said[1:]]
            for line in lines:
                reporter.write_line(crash.escaped(str(line)))
        if not self._alone and own:
            reporter.write_line(own)

    @pytest.hookimpl(optionalhook=True)
    def pytest_metadata(self, metadata: Any) -> None:
        """Reports name the environment of the tests."""
        stage = self._stages[0]
        if self._alone and stage.lost is None:
            foreign.metadata(metadata, stage.facts, stage.places)

    # --- collection ----------------------------------------------------------------------------------------------

    def pytest_collection(self, session: pytest.Session) -> bool:
        """Show what the inside collects as this session's own collection."""
        try:
            if self._given_up is not None:
                raise pytest.UsageError(self._given_up)
            self._collect(session)
            if self._crew and not session.items:
                for stage in self._stages:
                    stage.run_nothing()
        except pytest.UsageError as error:
            if not self._crew:
                raise
            # In a worker of pytest-xdist nobody would hear of it.
            session.shouldfail = " ".join(map(str, error.args)) or "a usage error inside the stage"
            self._final = self._final or int(pytest.ExitCode.USAGE_ERROR)
            raise session.Failed(session.shouldfail) from None
        return True

    def _collect(self, session: pytest.Session) -> None:
        config = session.config
        told = [message for stage in self._stages if (message := stage.collect(session)) is not None]
        lost = [stage.error for stage in self._stages if stage.error is not None]
        if lost and not told and not any(stage.errors for stage in self._stages):
            raise lost[0]
        self._account_for(session, told)
        for stage in self._stages:
            collection = stage.collection
            if collection is None:
                continue
            for parent, items in collection.by_parent():
                report = pytest.CollectReport(parent.nodeid, "passed", None, list(items))
                config.hook.pytest_collectreport(report=report)
            if collection.deselected:
                config.hook.pytest_deselected(items=collection.deselected)
        session.items = self._ordered()
        session.testscollected = len(session.items)
        if told:
            config.hook.pytest_collection_modifyitems(session=session, config=config, items=session.items)
        config.hook.pytest_collection_finish(session=session)
        session.testscollected = len(session.items)
        for stage in self._waves[0]:
            stage.plan(session.items)

    def _account_for(self, session: pytest.Session, told: Sequence[Any]) -> None:
        """What becomes of stages that could not be started, or not collect all of it, while others could."""
        if self._alone:
            return
        option = self._config.option
        broken = [stage for stage in self._stages if stage.errors]
        if broken and not option.continue_on_collection_errors and len(broken) < len(self._stages):
            # A local run would end here, and so do the insides of these stages.
            option.continue_on_collection_errors = True
            for stage in broken:
                noun = "error" if stage.errors == 1 else "errors"
                stage.leave_out(f"{stage.errors} {noun} during its collection")
        for stage in self._stages:
            if stage.collection is None and stage.lost is not None and not stage.errors and told:
                stage.stand_in(session, told[0])

    def _ordered(self) -> list[pytest.Item]:
        """All items that are to be shown: of the stages of one wave side by side, wave after wave."""
        items: list[pytest.Item] = []
        for wave in self._waves:
            shown = {
                stage.name: stage.collection.items
                for stage in wave
                if stage.collection is not None and (stage.lost is None or stage.lost.shown)
            }
            # A worker of pytest-xdist goes from stage to stage as seldom as it can.
            if self._config.option.collectonly or self._alone or self._crew:
                items += [item for group in shown.values() for item in group]
            else:
                order = suffix.interleaved({name: self._by_name[name].nodeids for name in shown})
                items += [shown[name][index] for name, index in order]
        return items

    def pytest_report_collectionfinish(self) -> list[str]:
        """Lines of selection (last failed, stepwise) and of plugins inside."""
        return [
            line if self._alone else f"{stage.name}: {line}" for stage in self._stages for line in stage.lines
        ]

    # --- running -------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Go on as the inside does: an error of pytest there ends this session, live logs want a line per test."""
        config = session.config
        if self._crew:
            return
        if self._alone and (
            not session.items or (session.testsfailed and not config.option.continue_on_collection_errors)
        ):
            self._stages[0].end_without_tests()
        if config.option.collectonly or config.pluginmanager.is_blocked("logging"):
            return
        live = getattr(config.option, "log_cli_level", None) is not None or config.getini("log_cli")
        if live and config.option.verbose < 1 and config.pluginmanager.has_plugin("terminalreporter"):
            config.option.verbose = 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Show one test as it happened inside."""
        if not isinstance(item, VirtualItem):
            return None
        stage = self._stages[0] if item.stage is None else self._by_name[item.stage]
        if stage.boot.waits:
            for each in next(wave for wave in self._waves if stage in wave):
                each.plan(item.session.items)
        stage.show(item, nextitem)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> Any:
        """Words of plugins inside travel with their reports."""
        return getattr(report, STATUS, None)

    def _interrupt(self, number: int) -> NoReturn:
        """Ctrl-C, or another signal that ends the run."""
        self._signals.phase = "ending"
        self._take_back()
        for stage in self._stages:
            stage.tell_interrupt()
        deadline = time.monotonic() + INTERRUPT_S
        places = [stage.interrupted(max(0.05, deadline - time.monotonic())) for stage in self._stages]
        if number != signal.SIGINT:
            self._final = exit_status(number)
            raise pytest.Session.Interrupted(f"ended by {signal.Signals(number).name}")
        known = [place for place in places if place is not None]
        ends.keyboard_interrupt(known[0] if known else [f"<stage {self._stages[0].name}>", 1])

    # --- end -----------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True, hookwrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, None]:
        """Hear the workers out, take their verdict, look at what the suite left, and begin to remove it all."""
        try:
            self._hear_out(session)
            # What the inside stopped for is what pytest's last lines tell.
            stop = self._stages[0].link.stop
            if self._alone and stop is not None and stop.kind == "failed" and not session.shouldfail:
                session.shouldfail = stop.text
        except KeyboardInterrupt:
            number = self._signals.noted() or signal.SIGINT
            self._final = exit_status(number)
            self._stages[0].summary.notes.append(
                f"{signal.Signals(number).name} while the session inside was ending"
            )
        self._signals.phase = "ending"
        self._take_back()
        if self._parity is not None and (
            self._narrowed
            or session.shouldfail
            or session.shouldstop
            or int(session.exitstatus) not in ends.OVER
        ):
            self._parity.whole = False
        ran = [stage for stage in self._stages if stage.places.ground is not None]
        if self._config.option.collectonly:
            ran = []
        for stage in self._stages:
            stage.look()
        for stage in self._stages:
            stage.keep()
        for stage in ran:
            stage.places.parting = self._memory.see
        if self._crew:
            ran = []  # the controller remembers the run as a whole
            output: dict[str, Any] = getattr(self._config, "workeroutput", {})
            verbosity = int(getattr(self._config.option, "verbose", 0))
            lines = [
                f"{'' if self._alone else f'{stage.name}: '}{line}"
                for stage in ([] if self._given_up is not None else self._stages)
                for line in stage.summary.lines(verbosity)
            ]
            output[OUTPUT] = {"lines": lines, "status": self._final or self._insisted(), "lost": self._lost()}
            if self._pollution is not None:
                output[OUTPUT]["pollution"] = self._pollution.output()
        removal = threading.Thread(target=self._end, name="envpar-removal")
        removal.start()
        try:
            yield
        finally:
            # pytest sums up only what ended in one of its usual ways, so the status of another comes after that.
            finals = [self._final, *(stage.final for stage in self._stages)]
            final = next((each for each in finals if each is not None), None)
            if final is not None:
                session.exitstatus = final
            # The engine is still busy with the removal.
            for stage in ran:
                self._remember(stage, int(session.exitstatus))
            removal.join()
            self._memory.tell()

    def _insisted(self) -> int | None:
        """In a worker of pytest-xdist: the exit status that the whole run has to end with."""
        finals = [stage.final for stage in self._stages if stage.final is not None]
        if not self._alone:
            finals += [
                stage.verdict
                for stage in self._stages
                if stage.verdict is not None and stage.verdict not in ends.OVER
            ]
        return finals[0] if finals else None

    def _remember(self, stage: OneStage, status: int) -> None:
        ground = stage.places.ground
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if ground is not None and reporter is not None:
            if not self._alone and stage.verdict is not None:
                status = stage.verdict
            self._memory.keep(ground, status, reporter.stats, stage.suffix)

    def _hear_out(self, session: pytest.Session) -> None:
        over = int(session.exitstatus) in ends.OVER
        stopping = bool(session.shouldfail or session.shouldstop)
        for stage in self._stages:
            stage.hear_out(ended_here=not over, stopping=stopping)
        verdicts = [stage.verdict for stage in self._stages if stage.verdict is not None]
        if over and verdicts:
            session.exitstatus = (
                verdicts[0] if self._alone else ends.one_status(int(session.exitstatus), verdicts)
            )
        if any(stage.failed for stage in self._stages):
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Sections of plugins inside, at the place in the order of plugins that conftests have in a local run."""
        for stage in self._stages:
            stage.summary.write_inside(terminalreporter)
        for line in pool.lines(self._lost()):
            terminalreporter.write_line(f"envpar: {crash.escaped(line)}")

    def _lost(self) -> dict[str, str]:
        """Engines of a pool that went away, and why."""
        return {name: why for stage in self._stages for name, why in stage.places.lost.items()}

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Give the host's cache what only the inside knows; leave nothing behind."""
        cache = getattr(config, "cache", None)
        for stage in self._stages:
            finished = stage.link.finished
            if finished is not None and cache is not None and stage.boot.stepwise:
                for key, value in dict(finished.output.get("cache") or {}).items():
                    if key == "cache/stepwise":
                        cache.set(stage.boot.stepwise_key, value)


def _pollution(config: pytest.Config) -> PollutionReport:
    from pytest_envpar.session.pollution import PollutionReport

    return PollutionReport(shown=not hasattr(config, "workerinput"))


def _waves(stages: Sequence[OneStage], size: int) -> list[list[OneStage]]:
    """The stages that run beside each other: all collect at once, more than that many do not run at once."""
    return [list(stages[start : start + size]) for start in range(0, len(stages), size)]
