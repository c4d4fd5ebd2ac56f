"""A run as one HTML page that needs nothing else: no script, no font, no network.

The page also forbids all of that (Content-Security-Policy). Every text comes from tests or images, so that it is
escaped twice: what steers a terminal becomes visible, what is markup becomes text.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from pytest_envpar.drift import pollution
from pytest_envpar.drift.render import escaped
from pytest_envpar.reports import run, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_envpar.drift.findings import Drift
    from pytest_envpar.reports.run import EndOfTest, RunReport

_MAX_LINE = 2_000
_MAX_LINES = 2_000
_MAX_ROWS = 20_000
"""Rows of one list: browsers become slow; the JSON has all of them."""
_SLOWEST = 10
_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1f2328; --quiet: #59636e; --line: #d1d9e0;
  --raised: #f6f8fa; --bad: #b3261e; --good: #1a7f37; --odd: #9a6700 }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --ink: #f0f6fc; --quiet: #9198a1; --line: #3d444d;
  --raised: #151b23; --bad: #ff7b72; --good: #3fb950; --odd: #d29922 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1200px; padding: 24px; font: 15px/1.5 system-ui, sans-serif;
  background: var(--page); color: var(--ink) }
h1 { font-size: 24px; margin: 0 } h2 { font-size: 18px; margin: 32px 0 8px }
.quiet { color: var(--quiet) } .bad { color: var(--bad) } .good { color: var(--good) } .odd { color: var(--odd) }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: 4px 16px 4px 0; vertical-align: top; border-bottom: 1px solid var(--line) }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 13px }
code { overflow-wrap: anywhere }
pre { background: var(--raised); padding: 12px; margin: 8px 0 16px; overflow-x: auto; border-radius: 6px }
details { border-bottom: 1px solid var(--line); padding: 6px 0 } td details { border: 0; padding: 0 }
summary { cursor: pointer }
"""
_COLOURS = {"failed": "bad", "error": "bad", "passed": "good"}


def page(report: RunReport) -> str:
    """The whole page: the verdict, stages, tests that end differently, failures, drift, pollution, slow tests, all."""
    title = f"{report.project}: {run.headline(report)}"
    parts = [
        _head(report),
        _stages(report),
        _differing(report),
        _failures(report),
        _drift(report),
        _pollution(report),
        _slowest(report),
        _all(report),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "".join(parts)
        + "</body>\n</html>\n"
    )


def _head(report: RunReport) -> str:
    verdict, colour = ("passed", "good") if report.exit_status == 0 else ("did not pass", "bad")
    gates = "".join(
        f'<p class="bad">The drift gate failed (fail-on {_text(str(report.fail_on))}): '
        f"{_text(drift.left)} → {_text(drift.right)}</p>\n"
        for drift in report.gates
    )
    errors = "".join(f'<p class="bad">Not compared: {_text(error)}</p>\n' for error in report.errors)
    return (
        f'<header>\n<h1>{_text(report.project)} <span class="{colour}">{verdict}</span></h1>\n'
        f'<p>{_text(run.headline(report))} <span class="quiet">· {_text(report.started)}, '
        f"{report.duration_s:.1f} s, exit status {report.exit_status}</span></p>\n{gates}{errors}</header>\n"
    )


def _stages(report: RunReport) -> str:
    if not report.stages:
        return ""
    counts = report.counts
    rows = []
    for stage in report.stages:
        where = (
            f'<span class="bad">{_text(stage.lost)}</span>'
            if stage.lost
            else f"<code>{_text(stage.image)}</code><br><code class=quiet>{_text(stage.digest)}</code><br>"
            f'<span class="quiet">Python {_text(stage.python)}, {_text(stage.engine)}, source {_text(stage.source)}'
            "</span>"
        )
        cells = "".join(f'<td class="number">{counts[stage.name][end]}</td>' for end in report.outcomes)
        rows.append(f"<tr><td><strong>{_text(stage.name)}</strong></td>{cells}<td>{where}</td></tr>\n")
    heads = "".join(f'<th class="number">{_text(end)}</th>' for end in report.outcomes)
    return _section("stages", "Stages", _table(f"<th>stage</th>{heads}<th>environment</th>", rows))


def _differing(report: RunReport) -> str:
    if not report.differing:
        return ""
    names = [stage.name for stage in report.stages]
    ends = {(test.nodeid, test.stage): test.outcome for test in report.tests}
    rows = [
        "<tr>"
        + "".join(f"<td>{_end(ends.get((nodeid, name)))}</td>" for name in names)
        + f"<td><code>{_text(nodeid)}</code></td></tr>\n"
        for nodeid in report.differing[:_MAX_ROWS]
    ]
    heads = "".join(f"<th>{_text(name)}</th>" for name in names)
    title = f"{len(report.differing)} of {len({test.nodeid for test in report.tests})} tests end differently"
    body = _table(f"{heads}<th>test</th>", rows) + _more(len(report.differing))
    return _section("parity", title, body)


def _failures(report: RunReport) -> str:
    if not report.bad:
        return ""
    folded = "".join(
        _folded(f"{_end(test.outcome)} <code>{_text(_name(test))}</code>", test.text.splitlines())
        for test in report.bad[:_MAX_ROWS]
    )
    return _section("failures", f"{len(report.bad)} did not pass", folded + _more(len(report.bad)))


def _drift(report: RunReport) -> str:
    return "".join(_comparison(drift, drift in report.gates) for drift in report.drifts)


def _comparison(drift: Drift, failed: bool) -> str:
    found = words.lines(drift)
    rows = [
        f"<tr><td>{_text(line.level)}</td><td>"
        + (_folded(_text(line.text), line.more) if line.more else _text(line.text))
        + "</td></tr>\n"
        for line in found
    ]
    body = f'<p class="{"bad" if failed else "quiet"}">{_text(words.summary(drift))}</p>\n'
    if rows:
        body += _table("<th>level</th><th>what differs</th>", rows)
    for hidden in drift.hidden:
        body += _folded(f"{hidden.count} hidden: {_text(hidden.reason)}", hidden.names)
    if drift.not_compared:
        told = [f"{each.path} ({each.reason})" for each in drift.not_compared]
        body += _folded(f"{words.number(len(told), 'path')} not compared", told)
    return _section("drift", f"Drift: {drift.left} → {drift.right}", body)


def _pollution(report: RunReport) -> str:
    found = report.pollution
    if found is None:
        return ""
    body = f"<p>{_text(pollution.summary(found.told))}</p>\n"
    left = [told for told in found.told if told.total]
    rows = [
        f"<tr><td><code>{_text(told.name)}</code></td>"
        f"<td>{_folded(_text(told.told()), pollution.paths(told, _MAX_LINES - 1))}</td></tr>\n"
        for told in left[:_MAX_ROWS]
    ]
    if rows:
        body += _table("<th>test</th><th>left</th>", rows) + _more(len(left))
    met = [line for told in found.told for line in pollution.met(told)]
    if met:
        items = "".join(f"<li>{_text(line)}</li>\n" for line in met[:_MAX_ROWS])
        body += f'<ul class="bad">\n{items}</ul>\n{_more(len(met))}'
    if found.unattributed:
        body += _folded(f"{len(found.unattributed)} not attributed to any test", found.unattributed)
    for problem in found.problems:
        body += f'<p class="bad">Not all of it is known: {_text(problem)}</p>\n'
    return _section("pollution", "Pollution", body)


def _slowest(report: RunReport) -> str:
    slow = sorted(report.tests, key=lambda test: -test.duration_s)[:_SLOWEST]
    rows = [
        f'<tr><td class="number">{test.duration_s:.2f} s</td><td><code>{_text(_name(test))}</code></td></tr>\n'
        for test in slow
        if test.duration_s >= 0.005
    ]
    return _section("slowest", "Slowest tests", _table("<th>time</th><th>test</th>", rows)) if rows else ""


def _all(report: RunReport) -> str:
    if not report.tests:
        return ""
    rows = [
        f'<tr><td>{_end(test.outcome)}</td><td class="number">{test.duration_s:.3f} s</td>'
        f"<td><code>{_text(_name(test))}</code></td></tr>\n"
        for test in report.tests[:_MAX_ROWS]
    ]
    table = _table("<th>end</th><th>time</th><th>test</th>", rows)
    return (
        f'<section id="tests">\n<h2>All tests</h2>\n<details><summary>{words.number(len(report.tests), "test")}'
        f"</summary>\n{table}{_more(len(report.tests))}</details>\n</section>\n"
    )


def _more(count: int) -> str:
    """What stands below a list that has not all of its ``count`` rows."""
    more = count - _MAX_ROWS
    return f'<p class="quiet">… and {more} more; the JSON report has all of them.</p>\n' if more > 0 else ""


def _name(test: EndOfTest) -> str:
    return test.nodeid if test.stage is None else f"{test.nodeid}@{test.stage}"


def _end(outcome: str | None) -> str:
    if outcome is None:
        return "-"
    return f'<span class="{_COLOURS.get(outcome, "odd")}">{_text(run.end(outcome))}</span>'


def _section(name: str, title: str, body: str) -> str:
    return f'<section id="{name}">\n<h2>{_text(title)}</h2>\n{body}</section>\n'


def _table(head: str, rows: Iterable[str]) -> str:
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n{"".join(rows)}</table></div>\n'


def _folded(summary: str, lines: Sequence[str]) -> str:
    """Lines that are shown on a click; ``summary`` is markup already."""
    if not lines:
        return f"<p>{summary}</p>\n"
    shown = [_text(line) for line in lines[:_MAX_LINES]]
    if len(lines) > _MAX_LINES:
        shown.append(f"… and {len(lines) - _MAX_LINES} more")
    return f"<details><summary>{summary}</summary><pre>{chr(10).join(shown)}</pre></details>\n"


def _text(text: str) -> str:
    return html.escape(escaped(text, _MAX_LINE))
