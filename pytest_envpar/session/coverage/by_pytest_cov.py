"""Reports through the pytest-cov of this side: its own options, reports, thresholds and words.

Its plugin is used as it is, but for the measuring: that happens inside. Works with pytest-cov 5 and newer.
"""

from __future__ import annotations

import copy
import importlib.metadata
from typing import TYPE_CHECKING, Any

import coverage
import pytest
from pytest_cov.engine import CovController
from pytest_cov.plugin import CovPlugin

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from pytest_envpar.session.coverage.gathered import Facts


class Controller(CovController):  # type: ignore[misc]  # has no types
    """Stands where pytest-cov has what measures; keeps what was measured inside instead."""

    def start(self) -> None:
        """Have the configuration, as pytest-cov reads it."""
        self.cov = coverage.Coverage(
            source=self.cov_source, branch=self.cov_branch, config_file=self.cov_config
        )
        self._opened = False

    def data(self) -> coverage.CoverageData:
        """Where measured data goes; what an earlier run left is erased or read first."""
        if not self._opened:
            self._opened = True
            if self.cov_append:
                self.cov.load()
            else:
                self.cov.erase()
        return self.cov.get_data()

    def finish(self) -> None:
        """All of it has been told."""
        self.data()
        self.cov.save()


class Reporting(CovPlugin):  # type: ignore[misc]  # has no types
    """pytest-cov's plugin without its measuring.

    Args:
        known: pytest's namespace with all that the host knows of the command line.
        pluginmanager: pytest's.
        args: The command line as the user gave it.
    """

    # What pytest-cov does at these moments is done inside, or by :meth:`report`.
    pytest_sessionstart = pytest_runtest_call = pytest_configure_node = pytest_testnodedown = None
    pytest_runtest_setup = pytest_runtest_teardown = None

    def __init__(self, known: Any, pluginmanager: Any, args: Sequence[str]) -> None:
        known = copy.copy(known)
        known.cov_report = dict(known.cov_report)
        known.no_cov_should_warn = _warns(args)
        super().__init__(known, pluginmanager, start=False)
        self._raised: BaseException | None = None
        if not self._disabled:
            self.start(Controller)

    @property
    def cov(self) -> coverage.Coverage:
        """coverage.py on this side."""
        cov: coverage.Coverage = self.cov_controller.cov
        return cov

    def data(self) -> coverage.CoverageData:
        """Where measured data goes."""
        data: coverage.CoverageData = self.cov_controller.data()
        return data

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtestloop(self) -> Generator[None, Any, None]:
        """Remember how the tests ended: pytest-cov may report nothing then."""
        outcome = yield
        if outcome.excinfo is not None:
            self._raised = outcome.excinfo[1]

    def report(self, session: pytest.Session, stages: dict[str, Facts]) -> bool:
        """Write all reports; their text is shown in the summary.

        Returns:
            Whether a threshold was not reached.
        """
        several = len(stages) > 1
        for name, facts in stages.items():
            if len(facts.python) == 5:
                text = self.cov_controller.get_node_desc("linux", facts.python)
                self.cov_controller.node_descs.add(f"stage {name}, {text}" if several else text)
        failed = session.testsfailed
        steps = CovPlugin.pytest_runtestloop(self, session)
        try:
            next(steps)
            if self._raised is not None and _passes_errors(CovPlugin.pytest_runtestloop):
                steps.throw(self._raised)
            else:
                steps.send(True)
        except StopIteration:
            pass
        except BaseException as error:
            if error is not self._raised:
                raise
        return bool(session.testsfailed > failed)


def measures_children() -> bool:
    """Whether the pytest-cov of this side measures the processes that tests start without being asked."""
    return int(importlib.metadata.version("pytest-cov").partition(".")[0]) < 7


def _passes_errors(hook: Callable[..., Any]) -> bool:
    """Whether an error of the tests ends this wrapper, as it does in newer releases."""
    return bool(getattr(hook, "pytest_impl", {}).get("wrapper"))


def _warns(args: Sequence[str]) -> bool:
    """As pytest-cov finds out whether to say that ``--no-cov`` has won."""
    words = [str(arg) for arg in args]
    if "--no-cov" not in words:
        return False
    return any(word.startswith("--cov") for word in words[words.index("--no-cov") :])
