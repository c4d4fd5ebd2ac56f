"""Folders in the user's cache folder that a run cannot do without: locks and downloads lie in them."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from pytest_envpar.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def make(folder: Path) -> None:
    """Make ``folder`` (host) if it is not there.

    Raises:
        UsageError: It cannot be made, or nothing can be written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"the cache folder {folder} cannot be used: {error.strerror}",
            hint="set XDG_CACHE_HOME to a folder that you may write to",
        ) from error
