"""Drift as SARIF 2.1.0 (https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html), for code scanning."""

from __future__ import annotations

import json
import urllib.parse
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_envpar.drift.render import escaped
from pytest_envpar.reports import words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_envpar.drift.findings import Drift
    from pytest_envpar.drift.model import Level
    from pytest_envpar.reports.words import Line

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_RULES: Mapping[str, str] = MappingProxyType(
    {
        "package": "A package differs between two environments.",
        "tampered": "Files of a package are not what the package shipped.",
        "file": "A file differs between two environments.",
        "config": "The configuration of two environments differs.",
        "allowance": "An allowance is over or allows nothing.",
    }
)
_SEVERITY: Mapping[Level, str] = MappingProxyType(
    {"runtime": "error", "package": "error", "config": "warning", "file": "note", "noise": "none"}
)
_MAX_RESULTS = 5_000
"""What code scanning takes of one run."""


def as_dict(drifts: Sequence[Drift], configuration: str = "envpar.toml") -> dict[str, Any]:
    """One run with a result for each finding.

    Args:
        configuration: The file, relative to the repository, that a finding without a path is shown at.
    """
    results = [_result(drift, line, configuration) for drift in drifts for line in words.lines(drift)]
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "pytest-envpar",
                        "rules": [
                            {"id": f"drift/{name}", "shortDescription": {"text": text}}
                            for name, text in _RULES.items()
                        ],
                    }
                },
                "results": results[:_MAX_RESULTS],
            }
        ],
    }


def render(drifts: Sequence[Drift], configuration: str = "envpar.toml") -> str:
    """The text of a file; see :func:`as_dict`."""
    return json.dumps(as_dict(drifts, configuration), indent=2) + "\n"


def _result(drift: Drift, line: Line, configuration: str) -> dict[str, Any]:
    text = f"{drift.left} -> {drift.right}: {line.text}"
    result: dict[str, Any] = {
        "ruleId": f"drift/{line.rule}",
        "ruleIndex": list(_RULES).index(line.rule),
        "level": _SEVERITY[line.level],
        "message": {"text": escaped(text, 1_000)},
        # A path inside a container is no file of the repository, to which the place of a result belongs.
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": urllib.parse.quote(configuration)}}}],
        "properties": {"level": line.level, "left": drift.left, "right": drift.right},
    }
    if line.path:
        name = escaped(line.path, 1_000)
        result["locations"][0]["logicalLocations"] = [{"fullyQualifiedName": name, "kind": "resource"}]
    return result
