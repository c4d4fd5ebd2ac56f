"""The pytest plugin of a worker: tells the host what happens, in the order in which it happens."""

import os
import platform
import signal
import sys
from io import StringIO
from typing import Any, Dict, Generator, List, Optional

import pytest
from _pytest._io import TerminalWriter

from . import covoptions, crew, marks, services, wire
from .channel import Channel
from .debugger import Debugger
from .describe import Describer
from .limits import Limits
from .quiet import QuietReporter, TextSink
from .serialize import Serializer
from .streams import Streams, flush_output, print_by_lines
from .told import Told
from .xmlattr import install as install_xml_attributes

_UNLIMITED = 1 << 62
_REPORTS = {
    "htmlpath": (("--html", "value"), ("--self-contained-html", "flag"), ("--css", "value")),
    "json_report": (
        ("--json-report", "flag"),
        ("--json-report-file", "value"),
        ("--json-report-indent", "value"),
        ("--json-report-summary", "flag"),
        ("--json-report-verbosity", "value"),
    ),
}
"""Options of plugins that may be on the host alone, where the report is written."""


class Inside:
    """Registered first, so that its wrappers are the outermost ones."""

    def __init__(self, channel: Channel, options: Dict[str, Any], streams: Streams) -> None:
        self.output: Dict[str, Any] = {}
        self._channel = channel
        self._options = options
        self._debugger = Debugger(channel, streams)
        self._wants_xml = False
        self._index: Dict[Any, int] = {}
        self._current = -1
        self._started = 0
        self._credit = options["credit"] or _UNLIMITED
        self._autostart = bool(options["autostart"])
        self._crew = options.get("crew")
        self._deselected: List[Any] = []
        self._limits = Limits(options["cap_drop"])
        self.measure = self._measure()
        self._serializer: Optional[Serializer] = None
        self._reporter: Optional[QuietReporter] = None

    def _measure(self) -> Any:
        """What measures coverage, if that was asked for; imported only then."""
        if not self._options.get("coverage"):
            return None
        from .measure import Measure

        return Measure(self._options["coverage"], self._channel.send, lambda: self._channel.ours)

    # --- options -------------------------------------------------------------------------------------------------

    def pytest_addoption(self, parser: Any, pluginmanager: Any) -> None:
        for name in ("envpar", "pytest_envpar", "pytest_envpar.plugin"):
            pluginmanager.set_blocked(name)
        if self.measure is not None:
            pluginmanager.register(self.measure.plugin(), self.measure.plugin_name)
        group = parser.getgroup("envpar")
        for name, kind in self._options["own_options"]:
            if name != "--env":
                _accept(group, name, kind)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_load_initial_conftests(self, early_config: Any, parser: Any) -> Generator[None, Any, None]:
        if self._options.get("pytest_cov"):
            covoptions.measure_nothing(early_config)
        yield
        if not _is_declared(parser, "--env"):  # by the user's own conftest
            _accept(parser.getgroup("envpar"), "--env", "value")
        if self._options.get("distributes"):
            crew.accept_options(parser)
        for name, options in _REPORTS.items():
            if name in self._options.get("reports", ()) and not _is_declared(parser, options[0][0]):
                for option, kind in options:
                    _accept(parser.getgroup("envpar"), option, kind)
        if self._options.get("pytest_cov"):
            covoptions.accept_options(parser)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_cmdline_main(self, config: Any) -> Generator[None, Any, None]:
        crew.distribute_nothing(config.option, by_host=bool(self._options.get("distributes")))
        if self._crew is not None:
            crew.pose(config, self._crew)
        yield

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: Any) -> None:
        self._wants_xml = bool(getattr(config.option, "xmlpath", None))
        # The host writes these; stray copies inside would only cost time.
        written = [(name, None) for name in self._options.get("reports", ())]
        for name, value in (("xmlpath", None), ("basetemp", None), ("pastebin", None), *written):
            if hasattr(config.option, name):
                setattr(config.option, name, value)
        config.option.color = "yes" if self._options["markup"] else "no"
        for line in (*marks.LINES, crew.MARK):
            config.addinivalue_line("markers", line)
        config.pluginmanager.register(services.module(self._options["services"]), "envpar-services")
        if self._options.get("pytest_cov"):
            covoptions.provide(config, self.measure)
        capture = config.getoption("capture", "fd")
        self._channel.live = capture in ("no", "tee-sys")
        if self._debugger.may_be_entered or (self._options["lines"] and self._channel.live):
            print_by_lines()
        self._debugger.configure(config, uncaptured=capture == "no")

    def late_configure(self, config: Any) -> None:
        manager = config.pluginmanager
        if not manager.has_plugin("terminalreporter"):
            self._serializer = Serializer(config, TerminalWriter(StringIO()))
            return
        if self._options["relay"]:
            writer = manager.get_plugin("terminalreporter")._tw
            writer.fullwidth = int(self._options["width"])
            return
        sink = TextSink(self._debugger.tell)
        reporter = self._reporter = QuietReporter(config, sink)
        manager.unregister(name="terminalreporter")
        manager.register(reporter, "terminalreporter")
        writer = reporter._tw
        writer.hasmarkup = bool(self._options["markup"])
        writer.fullwidth = int(self._options["width"])
        reporter.hasmarkup = writer.hasmarkup
        live_logs = getattr(manager.get_plugin("logging-plugin"), "log_cli_handler", None)
        if live_logs is not None and hasattr(
            live_logs, "setStream"
        ):  # it holds the reporter that was there before
            live_logs.setStream(reporter)
        self._serializer = Serializer(config, writer)
        if self._wants_xml:
            install_xml_attributes(config, self._channel.send)
        cache = getattr(config, "cache", None)
        if cache is not None:
            _let_cache_bear_any_name(cache)

    # --- collection ----------------------------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self, session: Any) -> None:
        self._channel.send(wire.Ready(wire.PROTOCOL, self._facts(session)))
        self._channel.flush()

    def _facts(self, session: Any) -> Dict[str, Any]:
        config = session.config
        manager = config.pluginmanager
        lines: List[str] = []
        # The cache that counts is the host's, and so is the line that names it.
        cache = [plugin for plugin in [manager.get_plugin("cacheprovider")] if plugin is not None]
        header = manager.subset_hook_caller("pytest_report_header", cache)
        arguments: Dict[str, Any] = {"config": config}
        if int(pytest.__version__.split(".")[0]) >= 7:
            arguments["start_path"] = config.invocation_params.dir
        for answer in reversed(_call(header, arguments)):
            _extend(lines, answer)
        return {
            "python": platform.python_version(),
            "implementation": platform.python_implementation(),
            "executable": sys.executable,
            "platform": sys.platform,
            "pytest": pytest.__version__,
            "pluggy": _pluggy_version(manager),
            "rootdir": str(config.rootpath),
            "header": lines,
            "pid": os.getpid(),
        }

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectstart(self, collector: Any) -> None:
        if isinstance(collector, pytest.File):
            self._channel.send(wire.Collecting(collector.nodeid))

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self, report: Any) -> None:
        if not report.passed and self._serializer is not None:
            self._channel.send(wire.CollectFailed(self._serializer.report(report)))

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: List[Any]) -> None:
        marks.apply(items, self._options["stage"])

    def pytest_deselected(self, items: List[Any]) -> None:
        self._deselected += items

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: Any) -> None:
        self._debugger.leave()
        config = session.config
        items = session.items
        self._index = {item: index for index, item in enumerate(items)}
        describer = Describer(bool(config.option.collectonly))
        rows = [describer.item(item) for item in items]
        rows += [describer.item(item) for item in self._deselected]
        lines: List[str] = []
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        finish = config.pluginmanager.subset_hook_caller("pytest_report_collectionfinish", [reporter])
        arguments = {"config": config, "items": items}
        if int(pytest.__version__.split(".")[0]) >= 7:
            arguments["start_path"] = config.invocation_params.dir
        for answer in reversed(_call(finish, arguments)):
            _extend(lines, answer)
        self._channel.send(
            wire.Collected(describer.nodes, rows, describer.marks, len(self._deselected), lines)
        )
        self._channel.flush()
        self._deselected = []

    # --- running -------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: Any) -> Optional[bool]:
        if self._autostart or session.config.option.collectonly:
            return None
        if self._crew is not None:
            # As with pytest-xdist: what could be collected is run.
            session.testsfailed += self._options.get("failed_before", 0)
            return Told(self._channel, self._allow, self._reporting).run(session)
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            return None
        plan: Optional[wire.Plan] = None
        while plan is None:
            message = self._channel.receive()
            if isinstance(message, wire.Plan):
                plan = message
            elif isinstance(message, wire.Credit):
                self._credit = message.total
        # What failed in other workers counts for --maxfail.
        session.testsfailed += plan.failed
        items = [session.items[index] for index in plan.indices]
        for number, item in enumerate(items):
            following = items[number + 1] if number + 1 < len(items) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
        return True

    def _allow(self, total: int) -> None:
        self._credit = total

    def _reporting(self, item: Any) -> None:
        self._current = self._index.get(item, -1)
        if self._serializer is not None:
            self._serializer.item = item

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: Any) -> Generator[None, Any, None]:
        while self._started >= self._credit:
            message = self._channel.receive()
            if isinstance(message, wire.Credit):
                self._credit = message.total
        self._started += 1
        self._limits.begin()
        index = self._index.get(item, -1)
        self._current = index
        if self._serializer is not None:
            self._serializer.item = item
        self._channel.send_encoded(b'["start",%d]' % index)
        if self._channel.live:
            self._channel.flush(sync=True)
        outcome = yield
        self._debugger.leave()
        if outcome.excinfo is None:  # else the session ends in the middle of this test, and says why
            self._channel.send_encoded(b'["finish",%d]' % index)
        self._current = -1

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, call: Any) -> Generator[None, Any, None]:
        outcome = yield
        if call.excinfo is not None and outcome.excinfo is None:
            report = outcome.get_result()
            lines = self._limits.bitten(call.excinfo.value) if report.failed else []
            if lines:
                report.sections.append(("limits of the container", "\n".join(lines)))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        serializer = self._serializer
        if serializer is None:
            return
        if report.when == "teardown":
            self._channel.check()
        if self._channel.live:
            flush_output()
        if serializer.is_plain(report):
            if self._reporter is not None:
                self._reporter.plain = report
            self._channel.send_encoded(
                wire.encode_passed(self._current, report.when, report.start, report.stop, report.duration)
            )
        else:
            status = serializer.status(report)
            self._channel.send(wire.Report(self._current, serializer.report(report), status))
        if self._channel.live:
            self._channel.flush(sync=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_exception_interact(self, report: Any) -> None:
        self._debugger.shows(report, self._current)

    @pytest.hookimpl(trylast=True)
    def pytest_leave_pdb(self) -> None:
        self._debugger.pause()

    def pytest_warning_recorded(self, warning_message: Any, when: str, nodeid: str, location: Any) -> None:
        self._channel.send(
            wire.Warned(
                {
                    "category": warning_message.category.__name__,
                    "text": str(warning_message.message),
                    "filename": warning_message.filename,
                    "lineno": warning_message.lineno,
                    "line": warning_message.line or _source_line(warning_message),
                    "when": when,
                    "nodeid": nodeid,
                    "location": list(location) if location else None,
                }
            )
        )

    # --- ends ----------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: Any) -> None:
        self._debugger.leave()
        value = excinfo.value
        crash = excinfo._getreprcrash() if hasattr(excinfo, "_getreprcrash") else None
        location = [crash.path, crash.lineno] if crash is not None else None
        if isinstance(value, pytest.exit.Exception):
            stop = wire.Stop("exit", str(value.msg), location, value.returncode)
        elif type(value) is KeyboardInterrupt:
            stop = wire.Stop("keyboard", str(value), location, None)
        else:
            stop = wire.Stop("interrupted", str(value), location, None)
        self._channel.send(stop)

    @pytest.hookimpl(tryfirst=True)
    def pytest_internalerror(self, excrepr: Any) -> None:
        self._debugger.leave()
        self._channel.send(wire.Stop("internal", str(excrepr), None, 3))

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: Any) -> Generator[None, Any, None]:
        self._debugger.leave()
        if session.shouldfail:
            self._channel.send(wire.Stop("failed", str(session.shouldfail), None, None))
        self._channel.flush()
        yield
        self.output["shadowed"] = _shadowed(self._options["root"])
        # All is said. The host may not know that yet and interrupt, which would end in a traceback here.
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        except ValueError:  # not in the main thread
            pass

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: Any) -> None:
        cache = getattr(config, "cache", None)
        if cache is not None and self._options["cache_dir"]:
            value = cache.get("cache/stepwise", None)
            self.output["cache"] = {} if value is None else {"cache/stepwise": value}


class LateConfigure:
    """Takes the terminal over once pytest's own reporter is there."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: Any) -> None:
        self._inside.late_configure(config)


def _pluggy_version(manager: Any) -> str:
    """By way of the manager's class: an injected pluggy has no public name."""
    for base in type(manager).__mro__:
        package, _, _ = base.__module__.rpartition(".")
        if package.split(".")[-1] == "pluggy":
            return str(getattr(sys.modules.get(package), "__version__", "unknown"))
    return "unknown"


def _is_declared(parser: Any, name: str) -> bool:
    """Whether someone else has declared an option; pytest itself looks at conflicts within one group only."""
    probe = name + "=probe"
    try:
        return probe not in parser.parse_known_and_unknown_args([probe])[1]
    except (pytest.UsageError, SystemExit):  # a flag, or a value that is none of their choices
        return True


def _accept(group: Any, name: str, kind: str) -> None:
    """Options of the host's plugin that reach us through ``addopts``: known, and of no effect."""
    more = {
        "dest": "envpar_" + name.strip("-").replace("-", "_"),
        "default": None,
        "help": "pytest-envpar, on the host",
    }
    if kind == "flag":
        group.addoption(name, action="store_true", **more)
    elif kind == "optional":
        group.addoption(name, nargs="?", action="append", **more)
    else:
        group.addoption(name, action="append", **more)


def _call(hook: Any, arguments: Dict[str, Any]) -> List[Any]:
    """Call a hook without the old arguments that pytest 7 and 8 still declare; pluggy would warn of them."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(hook(**arguments))


def _let_cache_bear_any_name(cache: Any) -> None:
    """A node id with a lone surrogate cannot be written; pytest would end with a traceback for it."""
    write = cache.set

    def set_(key: str, value: object) -> None:
        try:
            write(key, value)
        except UnicodeEncodeError:
            pass

    try:
        cache.set = set_
    except AttributeError:  # a cache of another plugin that takes no attributes
        pass


def _extend(lines: List[str], answer: Any) -> None:
    if isinstance(answer, str):
        lines.append(answer)
    elif answer:
        lines.extend(str(line) for line in answer)


def _source_line(warning_message: Any) -> Optional[str]:
    """The line a warning points at: its file may exist only on this side."""
    import linecache

    return linecache.getline(warning_message.filename, warning_message.lineno) or None


def _shadowed(root: str) -> List[List[str]]:
    """Top-level packages of the project that were imported from somewhere else: ``[name, where, source]``."""
    found = []
    here = os.path.realpath(root)
    for base in (root, os.path.join(root, "src")):
        try:
            entries = sorted(os.listdir(base))
        except OSError:
            continue
        for entry in entries:
            name, extension = os.path.splitext(entry)
            source = os.path.join(base, entry)
            if os.path.isfile(os.path.join(source, "__init__.py")):
                name = entry
            elif extension != ".py" or name in ("setup", "conftest", "noxfile"):
                continue
            module = sys.modules.get(name)
            where = getattr(module, "__file__", None)
            if where and not os.path.realpath(where).startswith(here + os.sep):
                found.append([name, where, os.path.relpath(source, root)])
    return found
