"""A terminal reporter that keeps the books and prints nothing: the host does the printing."""

from typing import Any, Callable, Generator, List

import pytest
from _pytest.terminal import TerminalReporter  # a public name exists only in newer releases


class TextSink:
    """A text file whose writes become a call. ``where`` says what is being written at the moment."""

    encoding = "utf-8"

    def __init__(self, send: Callable[[str, str], None]) -> None:
        self.where = "live"
        self._send = send

    def write(self, text: str) -> int:
        if text:
            self._send(self.where, text)
        return len(text)

    def end_line(self) -> None:
        """Have the host end its line, if it has begun one."""
        self._send("newline", "")

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


class QuietReporter(TerminalReporter):  # type: ignore[misc]  # final in newer releases; there is no other seam
    """Other plugins find it as ``terminalreporter``: statistics, verbosity and a writer work as ever."""

    def __init__(self, config: Any, sink: TextSink) -> None:
        super().__init__(config, sink)  # type: ignore[arg-type]
        self.sink = sink
        self.plain: Any = None
        """A report of which it is known already that it says no more than that a phase passed."""

    def ensure_newline(self) -> None:
        # Only the host knows whether its line has an end.
        if self.sink.where == "summary":
            self.sink.end_line()

    def pytest_collection(self) -> None:
        pass

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._add_stats("error", [report])
        elif report.skipped:
            self._add_stats("skipped", [report])
        self._numcollected += len([item for item in report.result if isinstance(item, pytest.Item)])

    def pytest_collection_finish(self, session: Any) -> None:
        pass

    def pytest_sessionstart(self, session: Any) -> None:
        self._session = session
        clock = getattr(super(), "pytest_sessionstart", None)
        if clock is not None:
            # Sets the session's start time; with the header switched off it prints nothing.
            verbose = self.config.option.verbose
            self.config.option.verbose = -2
            try:
                clock(session)
            finally:
                self.config.option.verbose = verbose

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        pass

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report is self.plain:
            category = "passed" if report.when == "call" else ""
        else:
            category = self.config.hook.pytest_report_teststatus(report=report, config=self.config)[0]
        self._add_stats(category, [report])

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        pass

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtestloop(self) -> Generator[None, Any, None]:
        yield

    @pytest.hookimpl(hookwrapper=True)
    def pytest_sessionfinish(self, session: Any, exitstatus: int) -> Generator[None, Any, None]:
        yield
        # Whether they are shown is the host's decision: releases differ on --no-summary.
        self._plugin_summaries(int(exitstatus))

    def _plugin_summaries(self, exitstatus: int) -> None:
        """Sections of plugins that live inside; pytest's own are written by the host."""
        manager = self.config.pluginmanager
        summary = manager.subset_hook_caller("pytest_terminal_summary", builtin_plugins(manager))
        self.sink.where = "summary"
        try:
            summary(terminalreporter=self, exitstatus=exitstatus, config=self.config)
        finally:
            self.sink.where = "live"

    @pytest.hookimpl(hookwrapper=True)
    def pytest_terminal_summary(self) -> Generator[None, Any, None]:
        yield

    def pytest_internalerror(self, excrepr: Any) -> bool:
        return True

    def pytest_keyboard_interrupt(self, excinfo: Any) -> None:
        pass

    def pytest_unconfigure(self) -> None:
        pass

    def pytest_warning_recorded(self, warning_message: Any, nodeid: str) -> None:
        self._add_stats("warnings", [warning_message])


def builtin_plugins(manager: Any) -> List[Any]:
    """The plugins that come with pytest, and ours."""
    ours = []
    for plugin in manager.get_plugins():
        module = getattr(plugin, "__name__", None)
        if not isinstance(module, str):
            module = type(plugin).__module__
        if module.split(".")[0] in ("_pytest", "pytest", __name__.split(".", maxsplit=1)[0]):
            ours.append(plugin)
    return ours
