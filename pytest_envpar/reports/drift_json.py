"""Drift for programs. The form is published as a JSON schema, :func:`schema`; it changes only with its version."""

from __future__ import annotations

import importlib.resources
import json
from typing import TYPE_CHECKING, Any

from pytest_envpar.reports import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_envpar.drift.findings import Drift, FileFinding
    from pytest_envpar.drift.model import Entry

VERSION = 1


def as_dict(drift: Drift) -> dict[str, Any]:
    """One comparison; the data of the HTML report, too."""
    return {
        "version": VERSION,
        "left": drift.left,
        "right": drift.right,
        "route": drift.route,
        "why": list(drift.why),
        "equal": drift.equal,
        "summary": {
            "findings": sum(1 for _ in drift.levels()),
            **{level: drift.count(level) for level in words.HIGHEST_FIRST},
            "hidden": sum(hidden.count for hidden in drift.hidden),
            "not_compared": len(drift.not_compared),
        },
        "changes": [_file(file) for file in drift.files],
        "config": [
            {
                "field": finding.change.field,
                "before": finding.change.before,
                "after": finding.change.after,
                "level": finding.level,
            }
            for finding in drift.config
        ],
        "packages": [
            {
                "ecosystem": finding.change.ecosystem,
                "name": finding.change.name,
                "before": finding.change.before,
                "after": finding.change.after,
                "files": finding.change.files,
                "level": finding.level,
                "tampered": list(finding.change.tampered),
            }
            for finding in drift.packages
        ],
        "allowances": [
            {
                "package": finding.package,
                "reason": finding.reason,
                "until": finding.until,
                "state": finding.state,
                "level": finding.level,
            }
            for finding in drift.allowances
        ],
        "hidden": [
            {"reason": hidden.reason, "count": hidden.count, "names": list(hidden.names)}
            for hidden in drift.hidden
        ],
        "not_compared": [{"path": each.path, "reason": each.reason} for each in drift.not_compared],
    }


def render(drifts: Sequence[Drift]) -> str:
    """The text of a file: one comparison as itself, several in an array, with a final newline.

    Bytes of a path that are not UTF-8 come out as ``\\udcXX``.
    """
    told: Any = [as_dict(drift) for drift in drifts]
    return json.dumps(told[0] if len(told) == 1 else told, indent=2) + "\n"


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of one comparison."""
    text = importlib.resources.files("pytest_envpar.reports").joinpath("drift.schema.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _file(file: FileFinding) -> dict[str, Any]:
    change = file.change
    return {
        "path": change.path,
        "kind": change.kind,
        "attributes": list(change.attributes),
        "level": file.level,
        "package": file.owner or None,
        "tampered": file.tampered,
        "instruction": file.instruction or None,
        "before": _entry(change.before),
        "after": _entry(change.after),
    }


def _entry(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {
        "type": entry.type,
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "digest": f"sha256:{entry.digest}" if entry.digest else None,
        "target": entry.target or None,
        "device": list(entry.device) if entry.device is not None else None,
        "xattrs": {name: value.hex() for name, value in entry.xattrs},
        "hardlink": entry.hardlink or None,
        "mtime_ns": entry.mtime_ns,
    }
