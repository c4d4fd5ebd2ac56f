"""Package inventories as bytes to keep and as a fingerprint to compare, for images that may be gone one day."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from pytest_envpar.drift.model import Package

if TYPE_CHECKING:
    from collections.abc import Iterable

# 1: first.
VERSION = 1


def fingerprint(packages: Iterable[Package]) -> str:
    """``sha256:…`` of what is installed; where it is installed does not count."""
    made = hashlib.sha256()
    for row in sorted({(package.ecosystem, package.name, package.version) for package in packages}):
        made.update(json.dumps(row).encode() + b"\n")
    return f"sha256:{made.hexdigest()}"


def encode(packages: Iterable[Package]) -> bytes:
    """An inventory as JSON lines."""
    rows = ([each.ecosystem, each.name, each.version, each.origin] for each in packages)
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def decode(data: bytes) -> tuple[Package, ...] | None:
    """The inventory in these bytes; None if they hold none."""
    found = []
    try:
        for line in data.splitlines():
            row = json.loads(line)
            if not isinstance(row, list) or len(row) != 4 or not all(isinstance(each, str) for each in row):
                return None
            found.append(Package(*row))
    except (ValueError, RecursionError):
        return None
    return tuple(found)
