"""One process makes an image while the others wait for it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_envpar.engine.api import Engine, Progress


@contextlib.contextmanager
def one_at_a_time(engine: Engine, tag: str, progress: Progress | None) -> Iterator[None]:
    """Hold the right to make ``tag`` on this engine among all processes of this user.

    Args:
        progress: Told if another process has it.
    """
    name = hashlib.sha256(f"{engine.info.id} {tag}".encode()).hexdigest()[:16]
    # The lock file stays: removing it would let two processes lock two files of one name.
    lock = filelock.FileLock(writable_folder("locks") / f"build-{name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if progress is not None:
            progress(f"waiting for another process that makes {tag}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def writable_folder(name: str) -> Path:
    """A folder of this name in the user's cache (host); elsewhere for a user without a writable home, as in many CI
    containers."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    try:
        cache = Path(base) if base.startswith("/") else Path.home() / ".cache"
        folder = cache / "pytest-envpar" / name
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError):
        folder = Path(tempfile.gettempdir()) / f"pytest-envpar-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder
