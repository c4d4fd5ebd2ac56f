"""Drift as Markdown, for a comment on a pull request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_envpar.drift.render import escaped
from pytest_envpar.reports import words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_envpar.drift.findings import Drift

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+!|~&@:-])")


def render(drift: Drift, *, limit: int = 100, diffs: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """The lines of a comment: a headline, a table of findings, folded details.

    Args:
        limit: Findings shown, and names behind each of them.
        diffs: Lines of a unified diff by path.
    """
    lines = [f"### Drift: {plain(drift.left)} → {plain(drift.right)}", "", plain(words.summary(drift)), ""]
    found = words.lines(drift)
    if found:
        lines += ["| level | what differs |", "|---|---|"]
        lines += [f"| {line.level} | {plain(line.text)} |" for line in found[:limit]]
        lines.append("")
    if len(found) > limit:
        lines += [f"… and {len(found) - limit} more.", ""]
    for line in found[:limit]:
        if diffs and line.diff in diffs:
            lines += details(f"diff of {line.path}", [code(text) for text in diffs[line.diff]], "diff", limit)
        elif line.more:
            lines += details(line.text, [code(text) for text in line.more], "", limit)
    for hidden in drift.hidden:
        names = [code(name) for name in hidden.names]
        lines += details(f"{hidden.count} hidden: {hidden.reason}", names, "", limit)
    if drift.not_compared:
        told = [code(f"{each.path} ({each.reason})") for each in drift.not_compared]
        lines += details(f"{words.number(len(told), 'path')} not compared", told, "", limit)
    return lines


def details(title: str, body: Sequence[str], language: str, limit: int) -> list[str]:
    """Lines under a title that folds them away; ``body`` as :func:`code` made it."""
    rest = [f"… and {len(body) - limit} more"] if len(body) > limit else []
    return [
        "<details>",
        f"<summary>{_html(title)}</summary>",
        "",
        f"````{language}",
        *body[:limit],
        *rest,
        "````",
        "",
        "</details>",
        "",
    ]


def plain(text: str) -> str:
    """Text in which nothing is markup, a mention or a link."""
    return _SPECIAL.sub(r"\\\1", escaped(text, 300))


def _html(text: str) -> str:
    return (
        escaped(text, 300)
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace("@", "&#64;")
    )


def code(text: str) -> str:
    """A line for a fence."""
    # A fence of four is closed by four: none is left in what stands inside.
    return escaped(text, 300).replace("````", "` ` ` `")
