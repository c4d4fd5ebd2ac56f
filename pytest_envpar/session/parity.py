"""The parity table of a run over several stages: which tests end differently, and how many end how."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.session import suffix
from pytest_envpar.session.names import shown as fit
from pytest_envpar.session.one_stage import NOT_RUN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SHOWN = 20
"""Rows of tests, unless ``-v`` asks for all."""
WORST_FIRST = ("error", "failed", "xpassed", "xfailed", "skipped", "passed")
ABSENT = "-"
ELSEWHERE = "elsewhere"
"""Skipped because the test itself says that it belongs to other stages."""
MISSING = "not run"
"""Its stage could not be started, or ended before the test. That is told elsewhere and no difference of the test."""


class Parity:
    """A plugin that listens to reports and writes the table at the end of the summary.

    Args:
        stages: The names of the stages, in the order of the columns.
    """

    def __init__(self, config: pytest.Config, stages: Sequence[str]) -> None:
        self._config = config
        self._stages = tuple(stages)
        self._outcomes: dict[str, dict[str, str]] = {}
        self.whole = True
        """Whether every stage was to run, and has run, all of the same tests."""

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported in a stage is a row of its own."""
        if report.failed:
            self._note(report.nodeid, "error")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The worst of a test's phases counts."""
        status = self._config.hook.pytest_report_teststatus(report=report, config=self._config)
        category = status[0] if status else report.outcome
        if getattr(report, NOT_RUN, False):
            category = MISSING
        elif category == "skipped" and _by_mark(report):
            category = ELSEWHERE
        if category:
            self._note(report.nodeid, category)

    @property
    def differing(self) -> list[str]:
        """Node ids, without suffix, of the tests that end differently."""
        return differing(self._outcomes, self._stages, whole=self.whole)

    def _note(self, nodeid: str, category: str) -> None:
        bare, stage = suffix.split(nodeid, self._stages)
        if stage is not None:
            row = self._outcomes.setdefault(bare, {})
            row[stage] = min(row.get(stage, category), category, key=_rank)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Write the table behind everything of pytest and of the stages."""
        if self._outcomes and terminalreporter.verbosity > -2:
            rows = None if terminalreporter.verbosity > 0 else SHOWN
            terminalreporter.section("parity")
            for line in lines(self._outcomes, self._stages, rows, whole=self.whole):
                terminalreporter.write_line(line)


def narrowed(known: Any, stages: Sequence[str]) -> bool:
    """Whether a command line keeps some stages from running all of the same tests.

    Args:
        known: pytest's namespace with all that the host knows of the command line.
        stages: The names of all stages of the run.
    """
    return bool(getattr(known, "lf", False)) or any(
        suffix.split(str(word), stages)[1] for word in known.file_or_dir
    )


def differing(
    outcomes: Mapping[str, Mapping[str, str]], stages: Sequence[str], *, whole: bool = True
) -> list[str]:
    """Node ids, without suffix, whose outcome is not the same in all stages they belong to.

    Args:
        outcomes: For each node id its outcome by stage.
        stages: The names of the stages.
        whole: Whether a test that a stage does not have is a difference.
    """
    same = {ELSEWHERE, MISSING} if whole else {ELSEWHERE, MISSING, ABSENT}
    found = []
    for nodeid, row in outcomes.items():
        ends = {row.get(stage, ABSENT) for stage in stages}
        if len(ends - same) > 1:
            found.append(nodeid)
    return found


def lines(
    outcomes: Mapping[str, Mapping[str, str]],
    stages: Sequence[str],
    most: int | None = None,
    *,
    whole: bool = True,
) -> list[str]:
    """The table as text: tests that differ first, then counts per stage.

    Args:
        outcomes: For each node id, without suffix, its outcome by stage.
        stages: The names of the stages.
        most: How many tests are shown at most; all of them by default.
        whole: Whether a test that a stage does not have is a difference.
    """
    different = differing(outcomes, stages, whole=whole)
    made: list[str] = []
    if different:
        shown = different[:most]
        table = [
            [*(_cell(outcomes[nodeid].get(stage, ABSENT)) for stage in stages), fit(nodeid)]
            for nodeid in shown
        ]
        made += _columns([[*stages, "test"], *table])
        if len(shown) < len(different):
            made.append(f"... {len(different) - len(shown)} more (-v shows all)")
        made.append("")
    total = len(outcomes)
    if different:
        made.append(
            f"{len(different)} of {total} tests {'ends' if len(different) == 1 else 'end'} differently"
        )
    else:
        made.append(f"no test of {total} ends differently")
    counts = {
        stage: collections.Counter(row[stage] for row in outcomes.values() if stage in row)
        for stage in stages
    }
    categories = [
        name
        for name in (*reversed(WORST_FIRST), ELSEWHERE, MISSING)
        if any(counts[stage][name] for stage in stages)
    ]
    others = {name for each in counts.values() for name in each} - set(categories)
    categories += sorted(others)
    return made + _columns(
        [
            ["stage", *categories],
            *([stage, *(str(counts[stage][name]) for name in categories)] for stage in stages),
        ]
    )


def _cell(outcome: str) -> str:
    return outcome.upper() if outcome in ("failed", "error") else outcome


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _rank(category: str) -> int:
    return WORST_FIRST.index(category) if category in WORST_FIRST else len(WORST_FIRST)


def _by_mark(report: pytest.TestReport) -> bool:
    """Whether the test says itself that it belongs elsewhere."""
    if "env_only" not in report.keywords and "env_skip" not in report.keywords:
        return False
    longrepr = report.longrepr
    reason = str(longrepr[2]) if isinstance(longrepr, tuple) and len(longrepr) == 3 else ""
    return reason.startswith(("Skipped: runs only in stage ", "Skipped: not in stage "))
