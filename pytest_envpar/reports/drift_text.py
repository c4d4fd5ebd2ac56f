"""Drift for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_envpar.drift.render import escaped
from pytest_envpar.reports import words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_envpar.drift.findings import Drift
    from pytest_envpar.drift.model import Level

_COLOURS: dict[Level, str] = {"runtime": "1;31", "package": "31", "config": "33", "file": "36", "noise": "2"}
_WIDTH = 240
_MORE = 200
"""Paths listed behind one finding, and names behind one reason."""


def render(
    drift: Drift,
    *,
    limit: int = 50,
    verbose: bool = False,
    show_hidden: bool = False,
    explain: bool = False,
    colour: bool = False,
    diffs: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
    """The lines of a report.

    Args:
        limit: Findings shown; a last line tells how many there are beyond them.
        verbose: List the files behind each finding.
        show_hidden: List what is hidden, behind its reason.
        explain: Say why the answer was found the way it was.
        colour: Write the escape codes of colours.
        diffs: Lines of a unified diff by path, for contents that differ.
    """
    paint = _paint if colour else _plain
    shown = [paint(headline(drift), "1")]
    if explain:
        shown += [f"  route: {escaped(drift.route)}", *(f"    {escaped(line, _WIDTH)}" for line in drift.why)]
    found = words.lines(drift)
    for line in found[:limit]:
        shown.append(f"  {paint(line.level.ljust(7), _COLOURS[line.level])}  {escaped(line.text, _WIDTH)}")
        if diffs and line.diff in diffs:
            shown += [f"           {_diff_line(text, colour)}" for text in diffs[line.diff]]
        if verbose:
            shown += [f"           {escaped(text, _WIDTH)}" for text in line.more[:_MORE]]
            shown += _rest("           ", len(line.more) - _MORE)
    if len(found) > limit:
        shown.append(f"  … and {len(found) - limit} more; --limit shows them")
    shown += [
        f"  not compared: {escaped(each.path)} ({escaped(each.reason)})"
        for each in drift.not_compared[:limit]
    ]
    shown += _rest("  not compared: ", len(drift.not_compared) - limit)
    for hidden in drift.hidden:
        shown.append(paint(f"  hidden: {hidden.count}, {escaped(hidden.reason)}", "2"))
        if show_hidden:
            shown += [f"           {escaped(name, _WIDTH)}" for name in hidden.names[:_MORE]]
            shown += _rest("           ", hidden.count - _MORE)
    return shown


def headline(drift: Drift) -> str:
    """The whole report in one line."""
    return f"{escaped(drift.left)} -> {escaped(drift.right)}: {words.summary(drift)}"


def _rest(indent: str, count: int) -> list[str]:
    return [f"{indent}… and {count} more"] if count > 0 else []


def _diff_line(text: str, colour: bool) -> str:
    line = escaped(text, _WIDTH)
    if colour and text[:1] in ("+", "-", "@"):
        return _paint(line, {"+": "32", "-": "31", "@": "36"}[text[0]])
    return line


def _paint(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m"


def _plain(text: str, code: str) -> str:  # noqa: ARG001
    return text
