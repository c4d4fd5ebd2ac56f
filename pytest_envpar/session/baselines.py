"""What is kept of an image: the inventory of its packages in the ledger, fingerprints of them and of its files in the
lock file."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from pytest_envpar.drift import baseline, fingerprint, looking
from pytest_envpar.drift.packages.base import Reader
from pytest_envpar.drift.packages.inventory import inventory
from pytest_envpar.drift.sides import of_image
from pytest_envpar.errors import EnvparError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pytest_envpar.drift.model import Package
    from pytest_envpar.drift.packages.base import PackageFormat
    from pytest_envpar.drift.sides import Side
    from pytest_envpar.drift.tree import Tree
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.images.locking import Locked
    from pytest_envpar.ledger import Ledger


def packages_of(
    side: Side, tree: Tree | None, formats: Sequence[PackageFormat], hints: Sequence[str], ledger: Ledger
) -> tuple[Package, ...] | None:
    """The inventory of a side, kept for the day on which its image is gone; None if it is gone and was not kept.

    Args:
        hints: Paths that differ; see :meth:`~pytest_envpar.drift.packages.base.PackageFormat.installed`.
    """
    if tree is None:
        data = ledger.packages.get(side.image_id, baseline.VERSION) if side.image_id else None
        return None if data is None else baseline.decode(data)
    found = inventory(Reader(tree), formats, hints)
    if side.unchanging and side.image_id:
        ledger.packages.put(side.image_id, baseline.VERSION, baseline.encode(found))
    return found


def is_record(formats: Sequence[PackageFormat]) -> Callable[[str], object | None]:
    """Whether a path is part of a database of one of the formats."""
    return lambda path: next((name for each in formats if (name := each.records(path)) is not None), None)


def fingerprinted(locked: Locked, engine: Engine, root: Path) -> Locked:
    """``locked`` with the fingerprints of the image's packages and files in its entry, if that is to be written anyway.

    A fingerprint that cannot be had is left out: the entry pins the image without it.

    Args:
        root: The project's root (host).
    """
    entry = locked.entry
    if not locked.pending or None not in (entry.packages, entry.manifest):
        return locked
    from pytest_envpar import userfiles
    from pytest_envpar.containers.labels import Owner

    side = of_image(engine, locked.image.info, locked.stage.name)
    labels = Owner.current(root).labels("probe")
    packages, manifest = entry.packages, entry.manifest
    with contextlib.ExitStack() as resources:
        ledger = resources.enter_context(userfiles.open_ledger())
        if packages is None:
            with contextlib.suppress(EnvparError):
                packages = _of_packages(side, ledger, labels)
        if manifest is None:
            with contextlib.suppress(EnvparError):
                manifest = fingerprint.of_side(side, ledger.manifests, labels)
    return dataclasses.replace(locked, entry=dataclasses.replace(entry, packages=packages, manifest=manifest))


def _of_packages(side: Side, ledger: Ledger, labels: Mapping[str, str]) -> str | None:
    from pytest_envpar.drift.packages import own_formats

    formats = own_formats()
    with contextlib.ExitStack() as resources:
        wanted = looking.kept_of((), is_record(formats))
        tree = looking.tree_of(side, wanted, resources, labels)
        found = packages_of(side, tree, formats, (), ledger)
    return None if found is None else baseline.fingerprint(found)
