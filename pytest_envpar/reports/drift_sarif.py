"""Drift, and what tests left behind, as SARIF 2.1.0, for code scanning.

The form is that of https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html.
"""

from __future__ import annotations

import json
import posixpath
import urllib.parse
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

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
"""What code scanning takes of one run; the worst."""


def as_dict(
    drifts: Sequence[Drift],
    configuration: str = "envpar.toml",
    *,
    pollution: Sequence[Pollution] = (),
    rootdir: str = ".",
) -> dict[str, Any]:
    """One run with a result for each finding, and for each test that left something or met it, the worst first.

    Args:
        configuration: The file, relative to the repository, that a finding without a path is shown at.
        pollution: What tests left; it is shown at their files.
        rootdir: The folder, relative to the repository, that node ids are relative to.
    """
    results = [_result(drift, line, configuration) for drift in drifts for line in words.lines(drift)]
    results += [result for told in pollution for result in _polluted(told, configuration, rootdir)]
    results.sort(key=lambda result: _WORST_FIRST.index(result["level"]))
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
                "results": results[:_MAX_RESULTS],
                **_cut(len(results) - _MAX_RESULTS),
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


def _cut(more: int) -> dict[str, Any]:
    """What says that results are missing, if any are."""
    if more <= 0:
        return {}
    told = {"level": "warning", "message": {"text": f"{more} more results, none of them worse, are left out"}}
    return {"invocations": [{"executionSuccessful": True, "toolExecutionNotifications": [told]}]}


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
    for line, each in zip(met(told), told.touched, strict=True):
        yield {**_shown("pollution/met", "warning", line, file, str(each.left.path)), **properties}


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
