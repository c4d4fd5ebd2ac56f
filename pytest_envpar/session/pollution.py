"""``--env-pollution``: gathers what the insides tell of what tests left, and shows it at the end."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.drift import pollution
from pytest_envpar.drift.render import escaped
from pytest_envpar.reports.run import Leftovers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_envpar.drift.changes import Changes

PROPERTY = "envpar_pollution"
"""Of a test's report, and so of its test case in JUnit XML."""
OUTPUT = "pollution"
"""Key in what a worker of pytest-xdist has to tell."""
REMEMBERED = 1000
"""Paths that a fresh worker is told of, after the death of one."""
_UNATTRIBUTED = 5


class PollutionReport:
    """A plugin that writes the section ``pollution``. It changes as tests are heard of.

    Args:
        shown: Whether this process writes; a worker of pytest-xdist hands over what it knows instead.
    """

    def __init__(self, *, shown: bool = True) -> None:
        self._shown = shown
        self._told: list[pollution.Pollution] = []
        self._problems: dict[str, None] = {}
        self._left: dict[str, Changes] = {}
        self._past: dict[str, int] = {}
        self._died: dict[str, str] = {}
        self._taken: list[str] = []

    def hear(self, fields: Mapping[str, Any], test: str = "", stage: str = "") -> None:
        """Take in what an inside told.

        Args:
            test: The test's node id as the run shows it; empty if it is no test's.
            stage: The stage, if the run has several.
        """
        problem = fields.get("problem")
        if isinstance(problem, str):
            self._problems[f"{stage}: {problem}" if stage else problem] = None
            return
        told = pollution.parse(fields, test, stage)
        if not (told.total or told.touched) or (not test and told in self._told):
            return  # what is done in each container is told once
        self._told.append(told)

    def mark(self, report: pytest.TestReport) -> None:
        """Give the report of a test's teardown what the test left."""
        for told in self._told[-1:]:
            if told.test == report.nodeid and told.total:
                report.user_properties = [*report.user_properties, (PROPERTY, told.told())]

    def compare(self, changes: Changes, stage: str) -> None:
        """Take in what a stage's containers have in the end that their image has not."""
        self._left[stage] = changes

    def next_container(self, stage: str) -> None:
        """What was told of a stage so far is of a container that is gone."""
        self._past[stage] = len(self._told)
        self._died.pop(stage, None)

    def died(self, stage: str, test: str) -> None:
        """The worker of a stage died of a test; the next one tells what that has left."""
        self._died[stage] = test

    def remembered(self, stage: str) -> dict[str, Any]:
        """What a fresh worker of a stage has to know: ``left`` (kind, path and whose it is) and ``died`` (a test)."""
        rows = [
            [left.kind, str(left.path), told.name]
            for told in self._told[self._past.get(stage, 0) :]
            if told.stage == stage
            for left in told.paths
        ]
        return {"left": rows[-REMEMBERED:], "died": self._died.pop(stage, "")}

    @property
    def told(self) -> tuple[pollution.Pollution, ...]:
        """All that was told, in order."""
        return tuple(self._told)

    def leftovers(self, stages: Sequence[str]) -> Leftovers:
        """All that is known, for a report.

        Args:
            stages: The stages of the run.
        """
        alone = stages[0] if len(stages) == 1 else ""
        told = (dataclasses.replace(each, stage=each.stage or alone) for each in self._told)
        return Leftovers(tuple(told), tuple(self._unattributed()), tuple(self._problems))

    def output(self) -> dict[str, Any]:
        """What a worker of pytest-xdist hands to its controller; :meth:`take` reads it there."""
        return {
            "told": [[told.test, told.stage, pollution.as_fields(told)] for told in self._told],
            "problems": list(self._problems),
            "unattributed": self._unattributed(),
        }

    def take(self, output: Any) -> None:
        """What a worker of pytest-xdist knows, as its :meth:`output` gave it."""
        if not isinstance(output, dict):
            return
        for test, stage, fields in output.get("told", ()):
            self.hear(fields, test, stage)
        self._problems.update(dict.fromkeys(output.get("problems", ())))
        self._taken += output.get("unattributed", ())

    def _unattributed(self) -> list[str]:
        own = [
            str(change.path)
            for stage, changes in self._left.items()
            for change in pollution.unattributed(
                changes, [each for each in self._told if each.stage == stage]
            )
        ]
        return sorted({*own, *self._taken})

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Write the section."""
        if not self._shown or terminalreporter.verbosity < -1:
            return
        terminalreporter.ensure_newline()
        terminalreporter.section("pollution")
        for line in self.lines(everything=terminalreporter.verbosity > 0):
            terminalreporter.write_line(line)

    def lines(self, *, everything: bool) -> list[str]:
        """The section's text.

        Args:
            everything: All tests and all their paths that are known by name.
        """
        found = [pollution.summary(self._told)]
        found += pollution.lines(self._told, everything=everything)
        rest = self._unattributed()
        if rest:
            named = rest if everything else rest[:_UNATTRIBUTED]
            more = f", … {len(rest) - len(named)} more" if len(rest) > len(named) else ""
            found.append(f"not attributed to any test: {', '.join(map(escaped, named))}{more}")
        found += [f"not all of it is known: {escaped(problem)}" for problem in self._problems]
        return found
