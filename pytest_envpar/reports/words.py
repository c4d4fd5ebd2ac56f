"""Findings in words, the same in every report. Nothing is escaped here; that is for the form to do."""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING

from pytest_envpar.drift.model import LEVELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_envpar.drift.findings import AllowanceFinding, ConfigFinding, Drift, FileFinding
    from pytest_envpar.drift.model import Change, Level, PackageChange

HIGHEST_FIRST: tuple[Level, ...] = tuple(reversed(LEVELS))
SIGNS = {"added": "+", "removed": "-", "modified": "~"}
MANY = 3
"""More paths than this of one instruction are one line."""
_STEP = 60
"""Characters of an instruction; the JSON has all of it."""
MANY_SIBLINGS = 10
"""More paths than this in one folder are one line."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One finding.

    Args:
        text: What differs.
        rule: The kind of finding, for programs: ``package``, ``tampered``, ``file``, ``config``, ``allowance``.
        path: The path it is about, or the first of several.
        more: Paths behind it that a short report leaves out.
        diff: The path whose contents may be shown, if it is one file with other content.
    """

    level: Level
    text: str
    rule: str
    path: str = ""
    more: tuple[str, ...] = ()
    diff: str = ""


def lines(drift: Drift) -> list[Line]:
    """Every finding, the highest level first; what one step of a Dockerfile or one new folder brought is one line."""
    found: list[Line] = []
    files: dict[str, list[FileFinding]] = collections.defaultdict(list)
    for file in drift.files:
        if file.owner and not file.reported:
            files[file.owner].append(file)
    for finding in drift.packages:
        change = finding.change
        behind = files.get(finding.key, ()) if change.files else ()
        rule = "tampered" if change.tampered else "package"
        first = change.tampered[0] if change.tampered else behind[0].change.path if behind else ""
        more = tuple(change_text(file.change) + (", tampered" if file.tampered else "") for file in behind)
        found.append(Line(finding.level, package_text(change), rule, first, more))
    found += [Line(finding.level, config_text(finding), "config") for finding in drift.config]
    found += [Line(finding.level, allowance_text(finding), "allowance") for finding in drift.allowances]
    found += _file_lines([file for file in drift.files if file.reported])
    return sorted(found, key=lambda line: HIGHEST_FIRST.index(line.level))


def package_text(change: PackageChange) -> str:
    """``openssl 3.0.15 -> 3.0.17 (dpkg, 412 files)``."""
    if change.before is None:
        versions = f"{change.after} added"
    elif change.after is None:
        versions = f"{change.before} removed"
    elif change.before == change.after:
        versions = f"{change.after}"
    else:
        versions = f"{change.before} -> {change.after}"
    text = f"{change.name} {versions} ({change.ecosystem}{', ' + number(change.files, 'file') if change.files else ''})"
    if change.tampered:
        shown = ", ".join(change.tampered[:MANY])
        rest = f", … {len(change.tampered) - MANY} more" if len(change.tampered) > MANY else ""
        text += f", not as the package shipped it: {shown}{rest}"
    return text


def config_text(finding: ConfigFinding) -> str:
    """``env.APP_ENV: "dev" -> "qa"``."""
    sides = [_value(value) for value in (finding.change.before, finding.change.after)]
    return f"{finding.change.field}: {sides[0]} -> {sides[1]}"


def allowance_text(finding: AllowanceFinding) -> str:
    """What is wrong with an allowance, and what to do."""
    if finding.state == "expired":
        return f"the allowance for {finding.package} ({finding.reason}) ended on {finding.until}: renew or remove it"
    return f"the allowance for {finding.package} ({finding.reason}) allows nothing: remove it"


def change_text(change: Change) -> str:
    """``~ /etc/foo (content, mode)``."""
    what = f" ({', '.join(change.attributes)})" if change.attributes else ""
    return f"{SIGNS[change.kind]} {change.path}{what}"


def number(count: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def summary(drift: Drift) -> str:
    """``3 findings: 1 runtime, 2 config``; also what is not shown."""
    counts = [(level, drift.count(level)) for level in HIGHEST_FIRST]
    told = [f"{count} {level}" for level, count in counts if count]
    total = sum(count for _, count in counts)
    text = f"{number(total, 'finding')}: {', '.join(told)}" if told else "no differences"
    hidden = sum(each.count for each in drift.hidden)
    if hidden:
        text += f"; {hidden} hidden"
    if drift.not_compared:
        text += f"; {number(len(drift.not_compared), 'path')} not compared"
    return text


def _short(instruction: str) -> str:
    return instruction if len(instruction) <= _STEP else instruction[: _STEP - 1] + "…"


def _value(value: str | None) -> str:
    return "(not set)" if value is None else f'"{value}"'


def _file_lines(files: Sequence[FileFinding]) -> list[Line]:
    found: list[Line] = []
    by_step: dict[tuple[Level, str], list[FileFinding]] = collections.defaultdict(list)
    rest: list[FileFinding] = []
    for file in files:
        (by_step[file.level, file.instruction] if file.instruction else rest).append(file)
    for (level, instruction), group in by_step.items():
        if len(group) <= MANY:
            rest += group
            continue
        paths = tuple(change_text(file.change) for file in group)
        text = f"{number(len(paths), 'path')} from {_short(instruction)}: {', '.join(paths[:MANY])}, …"
        found.append(Line(level, text, "file", group[0].change.path, paths))
    return found + _together(_folded(sorted(rest, key=lambda file: file.change.path.split("/"))))


def _together(found: Sequence[Line]) -> list[Line]:
    """What differs at many places of one folder (certificates, time zones) is told once."""
    siblings: dict[tuple[Level, str], list[Line]] = collections.defaultdict(list)
    for line in found:
        siblings[line.level, line.path.rpartition("/")[0]].append(line)
    merged: list[Line] = []
    for (level, folder), lines_ in siblings.items():
        if len(lines_) <= MANY_SIBLINGS:
            merged += lines_
            continue
        shown = ", ".join(line.text for line in lines_[:MANY])
        more = tuple(text for line in lines_ for text in (line.text, *line.more))
        merged.append(
            Line(level, f"{len(lines_)} paths in {folder or '/'}: {shown}, …", "file", folder or "/", more)
        )
    return merged


def _folded(files: Sequence[FileFinding]) -> list[Line]:
    """A folder that came or went is told once, with the number of what is in it."""
    found: list[Line] = []
    at = 0
    while at < len(files):
        file = files[at]
        change = file.change
        entry = change.after or change.before
        end = at + 1
        if change.kind != "modified" and entry is not None and entry.type == "directory":
            while end < len(files) and _is_inside(files[end], file):
                end += 1
        inside = tuple(change_text(each.change) for each in files[at + 1 : end])
        text = change_text(change)
        if inside:
            text += f"/ ({number(len(inside), 'entry').replace('entrys', 'entries')})"
        if file.owner:
            text += f", of {file.owner.partition(':')[2]}"
        if file.instruction:
            text += f", from {_short(file.instruction)}"
        diff = change.path if "content" in change.attributes else ""
        found.append(Line(file.level, text, "file", change.path, inside, diff))
        at = end
    return found


def _is_inside(file: FileFinding, folder: FileFinding) -> bool:
    change = file.change
    return (
        change.path.startswith(folder.change.path + "/")
        and change.kind == folder.change.kind
        and file.level == folder.level
        and not file.owner
    )
