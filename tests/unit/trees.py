"""A side's files as a dict, for tests of what is read from them."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from pytest_envpar.drift.model import Entry
from pytest_envpar.drift.tree import TooLargeError, too_large

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DictTree", "TooLargeError", "entry", "record_digest"]


class DictTree:
    """A tree without links: contents by path."""

    def __init__(self, files: Mapping[str, bytes | str]) -> None:
        self.files = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
        self.reads: list[str] = []

    def read(self, path: str, limit: int) -> bytes | None:
        """See :class:`~pytest_envpar.drift.tree.Tree`."""
        self.reads.append(path)
        data = self.files.get(path)
        if data is not None and len(data) > limit:
            raise too_large(path, limit)
        return data

    def list(self, folder: str) -> tuple[str, ...]:
        """See :class:`~pytest_envpar.drift.tree.Tree`."""
        start = folder.rstrip("/") + "/"
        return tuple(
            sorted({path[len(start) :].split("/")[0] for path in self.files if path.startswith(start)})
        )

    def entry(self, path: str) -> Entry:
        """The entry of one of the files."""
        return entry(path, self.files[path])


def entry(path: str, data: bytes | str = b"", mode: int = 0o644) -> Entry:
    """A regular file's entry."""
    raw = data.encode() if isinstance(data, str) else data
    return Entry(path, "file", mode, size=len(raw), digest=hashlib.sha256(raw).hexdigest())


def record_digest(data: bytes) -> str:
    """A digest as ``RECORD`` has it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
