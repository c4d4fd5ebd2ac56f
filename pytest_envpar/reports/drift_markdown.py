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
    lines = [f"### Drift: {_text(drift.left)} → {_text(drift.right)}", "", _text(words.summary(drift)), ""]
    found = words.lines(drift)
    if found:
        lines += ["| level | what differs |", "|---|---|"]
        lines += [f"| {line.level} | {_text(line.text)} |" for line in found[:limit]]
        lines.append("")
    if len(found) > limit:
        lines += [f"… and {len(found) - limit} more.", ""]
    for line in found[:limit]:
        if diffs and line.diff in diffs:
            lines += _details(
                f"diff of {line.path}", [_code(text) for text in diffs[line.diff]], "diff", limit
            )
        elif line.more:
            lines += _details(line.text, [_code(text) for text in line.more], "", limit)
    for hidden in drift.hidden:
        names = [_code(name) for name in hidden.names]
        lines += _details(f"{hidden.count} hidden: {hidden.reason}", names, "", limit)
    if drift.not_compared:
        told = [_code(f"{each.path} ({each.reason})") for each in drift.not_compared]
        lines += _details(f"{words.number(len(told), 'path')} not compared", told, "", limit)
    return lines


def _details(title: str, body: Sequence[str], language: str, limit: int) -> list[str]:
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


def _text(text: str) -> str:
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


def _code(text: str) -> str:
    # A fence of four is closed by four: none is left in what stands inside.
    return escaped(text, 300).replace("````", "` ` ` `")
