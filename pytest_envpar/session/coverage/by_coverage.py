"""Reports through coverage.py alone: what ``coverage run -m pytest`` and ``coverage report`` do in a local run."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import coverage
from coverage.exceptions import CoverageException, NoDataError
from coverage.results import should_fail_under

from pytest_envpar.errors import escaped

if TYPE_CHECKING:
    import pytest

    from pytest_envpar.session.coverage.gathered import Facts


class Reporting:
    """Owns the data file, as coverage.py's configuration names it."""

    def __init__(self) -> None:
        self.cov = coverage.Coverage()
        self._opened = False
        self._lines: list[str] = []
        self._last = ""
        self._failed = False

    def data(self) -> coverage.CoverageData:
        """Where measured data goes; what an earlier run left is erased first."""
        if not self._opened:
            self._opened = True
            self.cov.erase()
        return self.cov.get_data()

    def report(self, _session: pytest.Session, _stages: dict[str, Facts]) -> bool:
        """Write the data file and make the report of the terminal.

        Returns:
            Whether the threshold of the configuration was not reached, or there is no report to tell it from.
        """
        self.data()
        self.cov.save()
        text = io.StringIO()
        try:
            total = self.cov.report(file=text)
        except NoDataError as error:
            self._lines = [str(error)]
            total = 0.0
        except CoverageException as error:
            self._lines = [f"no report: {error}"]
            return True  # as ``coverage report`` ends
        self._lines += text.getvalue().splitlines()
        least: Any = self.cov.get_option("report:fail_under")
        precision: Any = self.cov.get_option("report:precision")
        if least:
            self._failed = bool(should_fail_under(total, float(least), int(precision or 0)))
            word = "FAIL Required" if self._failed else "Required"
            reached = "not reached" if self._failed else "reached"
            self._last = f"{word} coverage of {least:g}% {reached}. Total coverage: {total:.2f}%"
        return self._failed

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show the report."""
        if not self._lines:
            return
        terminalreporter.write_sep("=", "coverage")
        for line in self._lines:
            terminalreporter.write_line(escaped(line))
        if self._last:
            markup = {"red": True, "bold": True} if self._failed else {"green": True}
            terminalreporter.write_line(self._last, **markup)
