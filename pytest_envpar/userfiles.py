"""What the user has of ours on this machine: a cache folder, and the ledger in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_envpar.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_envpar.containers.checkpoint import Checkpoint
    from pytest_envpar.ledger import Ledger


def cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """The user's cache folder for us (host): ``$XDG_CACHE_HOME/pytest-envpar`` or ``~/.cache/pytest-envpar``."""
    source = os.environ if environ is None else environ
    base = source.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pytest-envpar"


def ledger_path(environ: Mapping[str, str] | None = None) -> Path:
    """The file of the ledger (host): ``ENVPAR_LEDGER``, or ``ledger.sqlite3`` in the cache folder."""
    source = os.environ if environ is None else environ
    named = source.get("ENVPAR_LEDGER")
    return Path(named).expanduser().absolute() if named else cache_dir(source) / "ledger.sqlite3"


def remember_checkpoint(root: Path, environ: Mapping[str, str]) -> Callable[[Checkpoint], None]:
    """What writes the lineage of a checkpoint of the project at ``root`` into the user's ledger."""

    def remember(checkpoint: Checkpoint) -> None:
        from pytest_envpar.ledger import CheckpointRecord

        record = CheckpointRecord(str(root), checkpoint.name, checkpoint.image_id, checkpoint.parent_id)
        with open_ledger(environ) as ledger:
            ledger.checkpoints.record(record)

    return remember


def open_ledger(environ: Mapping[str, str] | None = None) -> Ledger:
    """The user's ledger, with the limit that ``ENVPAR_LEDGER_MAX_BYTES`` gives; the caller closes it.

    Raises:
        UsageError: The limit is not a number of bytes.
    """
    from pytest_envpar.ledger import MAX_BYTES, Ledger

    source = os.environ if environ is None else environ
    text = source.get("ENVPAR_LEDGER_MAX_BYTES", "").strip()
    if text and not (text.isascii() and text.isdigit()):
        raise UsageError(
            f"ENVPAR_LEDGER_MAX_BYTES={text!r} is not a number of bytes", hint=f"for example {MAX_BYTES}"
        )
    return Ledger(ledger_path(source), max_bytes=int(text) if text else MAX_BYTES)
