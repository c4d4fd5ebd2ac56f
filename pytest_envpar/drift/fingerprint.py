"""The fingerprint of an image's files: whether a rebuild gave others can be told when the old image is gone.

It is the sha256 of every entry but its time, in tree order, without what any two builds of one Dockerfile write anew
(the paths of the presets) and what engines put into containers, with the folders that hold nothing else. Every way to
look gives the same one: what an engine's tar leaves out is left out of all.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

from pytest_envpar.drift.globs import any_of
from pytest_envpar.drift.layers import Stack
from pytest_envpar.drift.outside import Outside
from pytest_envpar.drift.presets import PATHS
from pytest_envpar.drift.produce import PARTIAL, Producer, view
from pytest_envpar.drift.records import MTIME, PATH
from pytest_envpar.drift.scanners import NoWayError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_envpar.drift.produce import Produced, Store
    from pytest_envpar.drift.routes import Force
    from pytest_envpar.drift.sides import Side

# A part of what is hashed. 1: first. 2: without folders that engines make where an image has none.
_VERSION = b"files 2\n"


def of_side(side: Side, store: Store, labels: Mapping[str, str], *, force: Force | None = None) -> str | None:
    """``sha256:…`` of an image's files; None if there is no way to them, or if some could not be read.

    Args:
        store: Known manifests, and where new ones go.
        labels: For a container that is made on the way.
        force: Take this way, even if there is a cheaper one.

    Raises:
        EngineError: The engine failed.
        ManifestError: It has more entries than are compared.
    """
    outside = Outside()
    with contextlib.ExitStack() as resources:
        producer = Producer(store, outside, labels, resources)
        ways: dict[Force, Callable[[], Produced]] = {
            "layers": lambda: producer.layers(side, 0),
            "scan": lambda: producer.scan(side),
            "export": lambda: producer.export(side),
        }
        for name, way in ways.items():
            if force not in (None, name):
                continue
            with contextlib.suppress(NoWayError):
                return of_stack(way().stack, outside)
    return None


def of_stack(stack: Stack, outside: Outside | None = None) -> str | None:
    """``sha256:…`` of what layers show; None if some of it could not be read."""
    if any(layer.notes() for layer in stack.layers):
        return None
    noise = any_of(tuple(glob for preset in PATHS for glob in preset.paths))
    made = hashlib.sha256(_VERSION)
    records = Stack(stack.layers, view(PARTIAL)).records()
    told = (record for record in records if noise.fullmatch(record[PATH]) is None)
    for record in (outside or Outside()).left_records(told):
        made.update("\0".join(record[:MTIME]).encode("utf-8", "surrogateescape") + b"\0\n")
    return f"sha256:{made.hexdigest()}"
