"""Drift, and what tests left behind, as SARIF 2.1.0, for code scanning.

The form is that of https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html.
"""

from __future__ import annotations

import itertools
import json
import posixpath
import urllib.parse
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_envpar.drift.pollution import met, paths
from pytest_envpar.drift.render import escaped
from pytest_envpar.reports import words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_envpar.drift.findings import Drift
    from pytest_envpar.drift.model import Level
    from pytest_envpar.drift.pollution import Pollution
    from pytest_envpar.reports.words import Line

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_DRIFT: Mapping[str, str] = MappingProxyType(
    {
        "package": "A package differs between two environments.",
        "tampered": "Files of a package are not what the package shipped.",
        "file": "A file differs between two environments.",
        "config": "The configuration of two environments differs.",
        "allowance": "An allowance is over or allows nothing.",
    }
)
_POLLUTION: Mapping[str, str] = MappingProxyType(
    {
        "left": "A test left the file system other than it was.",
        "met": "A test failed that met what another one had left.",
    }
)
_RULES = {
    **{f"drift/{name}": text for name, text in _DRIFT.items()},
    **{f"pollution/{name}": text for name, text in _POLLUTION.items()},
}
_SEVERITY: Mapping[Level, str] = MappingProxyType(
    {"runtime": "error", "package": "error", "config": "warning", "file": "note", "noise": "none"}
)
_WORST_FIRST = ("error", "warning", "note", "none")
_MAX_RESULTS = 5_000
"""What code scanning takes of one run."""


def as_dict(
    drifts: Sequence[Drift],
    configuration: str = "envpar.toml",
    *,
    pollution: Sequence[Pollution] = (),
    rootdir: str = ".",
) -> dict[str, Any]:
    """One run with a result for each finding, and for each test that left something or met it, the worst first.

    Of more than 5,000 each comparison, and the pollution, keeps its worst ones in an equal share of the room; what one
    does not need is for the others. What is left out is counted in notifications.

    Args:
        configuration: The file, relative to the repository, that a finding without a path is shown at.
        pollution: What tests left; it is shown at their files.
        rootdir: The folder, relative to the repository, that node ids are relative to.
    """
    parts = [
        _Part(
            f"{drift.left} -> {drift.right}",
            [_result(drift, line, configuration) for line in words.lines(drift)],
        )
        for drift in drifts
    ]
    parts.append(
        _Part("pollution", [each for told in pollution for each in _polluted(told, configuration, rootdir)])
    )
    results, notices = _bounded(parts)
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "pytest-envpar",
                        "rules": [
                            {"id": name, "shortDescription": {"text": text}} for name, text in _RULES.items()
                        ],
                    }
                },
                "results": results,
                **notices,
            }
        ],
    }


def render(
    drifts: Sequence[Drift],
    configuration: str = "envpar.toml",
    *,
    pollution: Sequence[Pollution] = (),
    rootdir: str = ".",
) -> str:
    """The text of a file; see :func:`as_dict`."""
    return json.dumps(as_dict(drifts, configuration, pollution=pollution, rootdir=rootdir), indent=2) + "\n"


class _Part(NamedTuple):
    """Results that share the room with those of other parts."""

    name: str
    results: list[dict[str, Any]]


def _bounded(parts: Sequence[_Part]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The results there is room for, the worst first, and what says that others are missing, if any are."""
    room = share = _MAX_RESULTS
    for at, size in enumerate(sorted(len(part.results) for part in parts)):
        share = room // (len(parts) - at)
        if size > share:
            break
        room -= size
    found: list[dict[str, Any]] = []
    told = []
    for part in parts:
        found += sorted(part.results, key=_rank)[:share]
        more = len(part.results) - share
        if more > 0:
            text = f"{part.name}: {more} more results, none of them worse, are left out"
            told.append({"level": "warning", "message": {"text": escaped(text, 1_000)}})
    found.sort(key=_rank)
    notices = [{"executionSuccessful": True, "toolExecutionNotifications": told}]
    return found, {"invocations": notices} if told else {}


def _rank(result: Mapping[str, Any]) -> int:
    return _WORST_FIRST.index(result["level"])


def _result(drift: Drift, line: Line, configuration: str) -> dict[str, Any]:
    text = f"{drift.left} -> {drift.right}: {line.text}"
    # A path inside a container is no file of the repository, to which the place of a result belongs.
    result = _shown(f"drift/{line.rule}", _SEVERITY[line.level], text, configuration, line.path)
    return {**result, "properties": {"level": line.level, "left": drift.left, "right": drift.right}}


def _polluted(told: Pollution, configuration: str, rootdir: str) -> Iterator[dict[str, Any]]:
    file = told.test.partition("::")[0]
    file = posixpath.normpath(posixpath.join(rootdir, file)) if file else configuration
    properties = {"properties": {"stage": told.stage}} if told.stage else {}
    if told.total:
        path = str(told.paths[0].path) if told.paths else ""
        text = f"{told.name} left {told.told()}: {', '.join(paths(told))}"
        yield {**_shown("pollution/left", "note", text, file, path), **properties}
    for line, each in itertools.zip_longest(met(told), told.touched):
        path = "" if each is None else str(each.left.path)
        yield {**_shown("pollution/met", "warning", line, file, path), **properties}


def _shown(rule: str, severity: str, text: str, file: str, path: str) -> dict[str, Any]:
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": urllib.parse.quote(file, errors="backslashreplace")}}
    }
    if path:
        name = escaped(path, 1_000)
        location["logicalLocations"] = [{"fullyQualifiedName": name, "kind": "resource"}]
    return {
        "ruleId": rule,
        "ruleIndex": list(_RULES).index(rule),
        "level": severity,
        "message": {"text": escaped(text, 1_000)},
        "locations": [location],
    }
