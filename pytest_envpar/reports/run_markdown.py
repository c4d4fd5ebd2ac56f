"""A run as Markdown, for a comment on a pull request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_envpar.drift import pollution
from pytest_envpar.reports import drift_markdown, run
from pytest_envpar.reports.drift_markdown import code, details, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_envpar.reports.run import RunReport

_LINES = 200
"""Lines of one test's text."""


def render(report: RunReport, *, limit: int = 50) -> str:
    """The text of a comment: a headline, the stages, what differs, what failed, drift.

    Args:
        limit: Tests shown in each part.
    """
    lines = [f"## {plain(report.project)}: {plain(run.headline(report))}", ""]
    lines += _stages(report)
    lines += _differing(report, limit)
    lines += _bad(report, limit)
    for error in report.errors:
        lines += [f"**Not compared**: {plain(error)}", ""]
    for drift in report.drifts:
        lines += drift_markdown.render(drift, limit=limit)
        if drift in report.gates:
            lines += [f"**The gate failed** (fail-on {report.fail_on}).", ""]
    lines += _pollution(report, limit)
    return "\n".join(lines).rstrip() + "\n"


def _stages(report: RunReport) -> list[str]:
    if not report.stages:
        return []
    rows = []
    counts = report.counts
    for stage in report.stages:
        what = stage.lost or f"{stage.image} {stage.digest}, Python {stage.python}, {stage.engine}"
        rows.append(
            [plain(stage.name), *(str(counts[stage.name][end]) for end in report.outcomes), plain(what)]
        )
    return _table(["stage", *map(plain, report.outcomes), "environment"], rows)


def _differing(report: RunReport, limit: int) -> list[str]:
    if not report.differing:
        return []
    names = [stage.name for stage in report.stages]
    ends = {(test.nodeid, test.stage): test.outcome for test in report.tests}
    rows = [
        [*(plain(run.end(ends.get((nodeid, name)))) for name in names), plain(nodeid)]
        for nodeid in report.differing[:limit]
    ]
    title = (
        f"### {len(report.differing)} of {len({test.nodeid for test in report.tests})} tests end differently"
    )
    return [title, "", *_table([*map(plain, names), "test"], rows), *_more(len(report.differing) - limit)]


def _bad(report: RunReport, limit: int) -> list[str]:
    lines = []
    for test in report.bad[:limit]:
        title = f"{test.outcome.upper()} {test.nodeid}" + (f" in {test.stage}" if test.stage else "")
        lines += details(title, [code(line) for line in test.text.splitlines()], "", _LINES)
    return lines + _more(len(report.bad) - limit)


def _pollution(report: RunReport, limit: int) -> list[str]:
    found = report.pollution
    if found is None:
        return []
    lines = ["### Pollution", "", plain(pollution.summary(found.told)), ""]
    met = [line for told in found.told for line in pollution.met(told)]
    lines += [f"- {plain(line)}" for line in met[:limit]]
    lines += ["", *_more(len(met) - limit)] if met else []
    left = [told for told in found.told if told.total]
    for told in left[:limit]:
        paths = [code(path) for path in pollution.paths(told, limit)]
        lines += details(f"{told.name}: {told.told()}", paths, "", len(paths))
    lines += _more(len(left) - limit)
    if found.unattributed:
        title = f"{len(found.unattributed)} not attributed to any test"
        lines += details(title, [code(path) for path in found.unattributed], "", limit)
    for problem in found.problems:
        lines += [f"Not all of it is known: {plain(problem)}", ""]
    return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def _more(count: int) -> list[str]:
    return [f"… and {count} more.", ""] if count > 0 else []
