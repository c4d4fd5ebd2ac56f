"""Small JSON files that remember what was expensive to learn.

A cache is never trusted: a file that is missing, damaged, of another version or of another question is
ignored and written again. Writing goes beside the file and renames, so readers in other processes never see
half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def digest(*parts: str) -> str:
    """A short name for a question: 24 hexadecimal digits over all ``parts``, which may hold anything."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def load(path: Path, version: int) -> Mapping[str, Any] | None:
    """What :func:`store` wrote to ``path`` with this ``version``; ``None`` if there is nothing usable."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("version") != version:
        return None
    data = content.get("data")
    return data if isinstance(data, dict) else None


def store(path: Path, version: int, data: Mapping[str, Any]) -> None:
    """Write ``data`` to ``path``. Never fails: a cache that cannot be written costs time later, no more."""
    text = json.dumps({"version": version, "data": data}, indent=1, sort_keys=True) + "\n"
    with contextlib.suppress(OSError):
        write(path, text.encode())


def write(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` in one step, making its folder. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(beside).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(beside).unlink()
        raise
