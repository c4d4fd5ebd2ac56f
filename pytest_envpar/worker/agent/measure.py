"""Measures coverage inside and tells the host, in a way that a death costs no more than what came last.

What ``options["coverage"]`` holds: ``home`` (the folder of the coverage.py that we bring, empty for the image's own),
``config`` (the text of a configuration file for it), ``folder`` (ours, for its files), ``contexts`` (a context per
test and phase, as ``--cov-context=test`` asks), ``whole`` (from before pytest starts until after it has ended, as
``coverage run -m pytest`` does; otherwise as pytest-cov does), ``children`` (processes that tests start are measured,
too), ``hook`` (those processes have to find coverage.py) and ``first`` (warn of packages that were never imported).

Data is sent while tests run, as often as that costs no more than ``SHARE`` of the time.
"""

import os
import time
from typing import Any, Callable, Dict, Generator, List, Optional

import pytest

from . import tracing, wire

SHARE = 0.05
NUMBERS = 50_000
"""How many line numbers go into one message, about."""


class Measure:
    """Owns the measurement of one worker.

    Args:
        options: See above.
        send: Takes messages for the host.
        ours: Whether this is still the worker's own process, and not a child that a test has forked.
    """

    def __init__(
        self, options: Dict[str, Any], send: Callable[[wire.Message], None], ours: Callable[[], bool]
    ) -> None:
        self.cov: Any = None
        self.started = False
        self._options = options
        self._send = send
        self._ours = ours
        self._sent = False
        self._touched = False
        self._clock = time.perf_counter
        self._begun = 0.0
        self._spent = 0.0

    def plugin(self) -> "MeasurePlugin":
        """What has to be told of pytest's session."""
        return MeasurePlugin(self)

    @property
    def plugin_name(self) -> str:
        """The plugin's name: that of pytest-cov where it stands for it."""
        return "envpar-coverage" if self.whole else "_cov"

    @property
    def whole(self) -> bool:
        """Whether the whole process is measured, not only pytest's session."""
        return bool(self._options["whole"])

    @property
    def contexts(self) -> bool:
        """Whether each test and phase has a context of its own."""
        return bool(self._options["contexts"])

    def start(self) -> None:
        """Begin to measure.

        Raises:
            pytest.UsageError: coverage.py cannot be had as it is configured.
        """
        try:
            self._start()
        except Exception as error:  # a plugin of coverage.py that is not there, or anything that one raises
            text = "coverage.py cannot measure inside: %s: %s" % (type(error).__name__, error)
            raise pytest.UsageError(text) from error

    def _start(self) -> None:
        options = self._options
        coverage = tracing.load(options["home"])
        folder = options["folder"]
        os.makedirs(folder, exist_ok=True)
        config = os.path.join(folder, "coveragerc")
        with open(config, "w", encoding="utf-8") as file:
            file.write(options["config"])
        self.cov = cov = coverage.Coverage(
            data_file=os.path.join(folder, "data"), data_suffix=True, config_file=config
        )
        cov._warn_unimported_source = bool(options["first"])
        finish = cov._post_save_work

        def post_save_work() -> None:
            self._touched = True
            finish()

        cov._post_save_work = post_save_work
        if options["hook"]:
            _hand_down(config if options["children"] else "", options["home"])
        cov.start()
        self.started = True
        self._begun = self._clock()
        self._send(wire.Coverage(self._facts(coverage), []))

    def _facts(self, coverage: Any) -> Dict[str, Any]:
        import sys

        tracer = getattr(self.cov._collector, "tracer_name", None)
        return {
            "version": str(coverage.__version__),
            "tracer": str(tracer()) if tracer is not None else "",
            "python": list(sys.version_info),
        }

    def tell(self) -> None:
        """Send what was measured since the last time, if that is not too soon."""
        if not self.started or not self._ours():
            return
        now = self._clock()
        if self._spent > SHARE * (now - self._begun):
            return
        collector = self.cov._collector
        if collector.flush_data():
            data = collector.covdata
            file = data.data_filename()
            if os.path.exists(file):
                self._send_file(file)
                data.erase()
        self._spent += self._clock() - now

    def pause(self) -> None:
        """Measure nothing until :meth:`resume`."""
        self.cov.stop()
        self.started = False

    def resume(self) -> None:
        """Go on measuring."""
        self.cov.start()
        self.started = True

    def finish(self) -> None:
        """Stop, and send the rest: also what children and workers that died have left in files. Safe to repeat."""
        cov = self.cov
        if cov is None or not self._ours():
            return
        self.cov = None
        if self.started:
            cov.stop()
        self.started = False
        if self._sent:
            cov._warn_no_data = False
        cov.save()
        if not self._touched:
            cov._post_save_work()
        close = getattr(cov.get_data(), "close", None)
        if close is not None:
            close()
        folder = self._options["folder"]
        for name in sorted(os.listdir(folder)):
            if name.startswith("data"):
                file = os.path.join(folder, name)
                try:
                    self._send_file(file)
                except ValueError:
                    pass  # of a process that was killed while it wrote
                os.unlink(file)
        self._send(wire.Coverage({"done": True}, []))

    def _send_file(self, file: str) -> None:
        rows, tracers = tracing.read(file)
        facts: Dict[str, Any] = {"tracers": tracers} if tracers else {}
        part: List[List[Any]] = []
        count = 0
        for row in rows:
            part.append(row)
            count += len(row[3]) + 1
            if count > NUMBERS:
                self._send(wire.Coverage(facts, part))
                part, count, facts = [], 0, {}
        if part:
            self._send(wire.Coverage(facts, part))
        self._sent = self._sent or bool(rows)


def _hand_down(config: str, home: str) -> None:
    """Let Python processes that tests start measure themselves, or at least find the coverage.py that we bring."""
    children = os.path.join(os.path.dirname(os.path.abspath(__file__)), "children")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = children if not before else children + os.pathsep + before
    if home:
        os.environ[tracing.HOME] = home
    if config:
        os.environ["COVERAGE_PROCESS_START"] = config


class MeasurePlugin:
    """Measures where pytest-cov measures: from before the initial conftests until the last test has run.

    Tests and other plugins find it as ``_cov``, with what they use of pytest-cov: ``cov_controller.cov``.
    """

    def __init__(self, measure: Measure) -> None:
        self._measure = measure

    @property
    def cov_controller(self) -> Optional[Measure]:
        """What measures."""
        return self._measure if self._measure.cov is not None else None

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_load_initial_conftests(self, early_config: Any) -> Generator[None, Any, None]:
        if not self._measure.whole:
            self._measure.start()
        yield

    def pytest_sessionstart(self, session: Any) -> None:
        if self._measure.contexts:
            session.config.pluginmanager.register(_Contexts(self._measure), "_cov_contexts")

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, Any, None]:
        yield
        self._measure.tell()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: Any) -> Generator[None, Any, None]:
        measure = self._measure
        unwanted = item.get_closest_marker("no_cover") or "no_cover" in getattr(item, "fixturenames", ())
        if unwanted and measure.started:
            measure.pause()
            yield
            measure.resume()
        else:
            yield

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtestloop(self) -> Generator[None, Any, None]:
        yield
        if not self._measure.whole:
            self._measure.finish()


class _Contexts:
    """One context per test and phase."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure

    def pytest_runtest_setup(self, item: Any) -> None:
        self._switch(item, "setup")

    def pytest_runtest_call(self, item: Any) -> None:
        self._switch(item, "run")

    def pytest_runtest_teardown(self, item: Any) -> None:
        self._switch(item, "teardown")

    def _switch(self, item: Any, when: str) -> None:
        if self._measure.started:
            self._measure.cov.switch_context("%s|%s" % (item.nodeid, when))
