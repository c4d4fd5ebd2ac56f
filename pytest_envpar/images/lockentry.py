"""An entry of the lock file beside the stage it pins: how it is made, and what has changed since."""

from __future__ import annotations

import dataclasses
import os
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_envpar.images import lockfile
from pytest_envpar.images.lockfile import Entry
from pytest_envpar.images.pinned import pin, same_platform
from pytest_envpar.images.services import references
from pytest_envpar.images.tags import INPUT, SETUP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_envpar.config.model import Stage
    from pytest_envpar.engine.api import Engine
    from pytest_envpar.images.pinned import PinnedImage

INPUTS_CHANGED = "Dockerfile, context or arguments of the build changed"
SETUP_CHANGED = "setup steps changed, or the files they name"
_NOTHING: Mapping[str, str] = MappingProxyType({})


def edits_of(entry: Entry, stage: Stage, root: Path) -> tuple[str, ...]:
    """What the configuration alone shows to have changed since ``stage`` was locked, each for what it is."""
    found = []
    was, now = entry.reference, stage.image
    if was is not None and now is not None and was != now:
        found.append(f"reference edited: {was} -> {now}")
    elif was is not None and now is None:
        found.append(f"image replaced by a build: {was} -> {dockerfile_of(stage, root)}")
    elif was is None and now is not None:
        found.append(f"build replaced by an image: {entry.build} -> {now}")
    elif entry.build != dockerfile_of(stage, root):
        found.append(f"Dockerfile replaced: {entry.build} -> {dockerfile_of(stage, root)}")
    if stage.platform is not None and not same_platform(stage.platform, entry.platform):
        found.append(f"platform edited: {entry.platform} -> {stage.platform}")
    if stage.setup and entry.setup is None:
        found.append("setup steps added")
    if entry.setup is not None and not stage.setup:
        found.append("setup steps removed")
    images = references(stage)
    found += [f"service image added: {image}" for image in sorted(images - entry.services.keys())]
    found += [f"service image removed: {image}" for image in sorted(entry.services.keys() - images)]
    return tuple(found)


def changes_of(entry: Entry, new: Entry) -> tuple[str, ...]:
    """What a resolved image shows to have changed in what it is made from, each for what it is."""
    bases = [
        f"base image changed: {name} {short(entry.base[name])} -> {short(new.base[name])}"
        for name in sorted(entry.base.keys() & new.base.keys())
        if entry.base[name] != new.base[name]
    ]
    found = list(bases)
    if entry.inputs is not None and new.inputs is not None and entry.inputs != new.inputs:
        found.append(INPUTS_CHANGED)
    if entry.setup is not None and new.setup is not None and entry.setup != new.setup:
        found.append(SETUP_CHANGED)
    return tuple(found)


def input_changes_of(entry: Entry, stage: Stage, root: Path, leave_out: tuple[Path, ...]) -> tuple[str, ...]:
    """What the files of a build and of ``setup`` steps show to have changed since ``stage`` was locked. Asks no engine.

    Args:
        root: The project root (host).
        leave_out: What is no part of a context (host).

    Raises:
        ImageError: The context cannot be read.
    """
    found = []
    if stage.build is not None and entry.inputs is not None:
        from pytest_envpar.images.build import input_hash

        if _sha(input_hash(stage, stage.build, leave_out)) != entry.inputs:
            found.append(INPUTS_CHANGED)
    if stage.setup and entry.setup is not None:
        from pytest_envpar.images.setup import setup_hash

        if _sha(setup_hash(stage, root, leave_out)) != entry.setup:
            found.append(SETUP_CHANGED)
    return tuple(found)


def dockerfile_of(stage: Stage, root: Path) -> str | None:
    """The Dockerfile of a build as the lock names it: relative to the project root."""
    return None if stage.build is None else os.path.relpath(stage.build.dockerfile, root).replace(os.sep, "/")


def bases_now(engine: Engine, stage: Stage) -> Mapping[str, str]:
    """What a build, or the layer of ``setup`` steps, starts from on this engine, as :class:`Entry` has it."""
    names: tuple[str, ...] = ()
    if stage.build is not None:
        from pytest_envpar.images.build import bases_of

        names = bases_of(stage.build)
    elif stage.image is not None and stage.setup:
        names = (stage.image,)
    found = {name: info for name in names if (info := engine.inspect_image(name)) is not None}
    # A build that had nothing to do needs no base, so that one may be missing.
    return MappingProxyType(
        {name: pin(name, info).digest or f"{lockfile.LOCAL}{_sha(info.id)}" for name, info in found.items()}
    )


def entry_of(stage: Stage, root: Path, image: PinnedImage, bases: Mapping[str, str] = _NOTHING) -> Entry:
    """The entry that pins ``stage`` to ``image``.

    Args:
        bases: What it was made from; see :func:`bases_now`.
    """
    return Entry(
        reference=stage.image,
        build=dockerfile_of(stage, root),
        digest=image.digest if stage.image is not None else None,
        image_id=_sha(image.image_id),
        platform=image.platform,
        inputs=_optional_sha(_inputs(image)) if stage.build is not None else None,
        setup=_optional_sha(image.info.labels.get(SETUP)) if stage.setup else None,
        layers=image.layers,
        base=MappingProxyType(dict(bases)),
    )


def _inputs(image: PinnedImage) -> str | None:
    given = getattr(image, "inputs", None) or image.info.labels.get(INPUT)
    return None if given is None else str(given)


def renewed(old: Entry | None, new: Entry) -> Entry:
    """``new`` with the fingerprints of ``old`` where they are of the same image."""
    if old is None or old.image_id != new.image_id:
        return new
    return dataclasses.replace(new, manifest=old.manifest, packages=old.packages)


def difference(old: Entry, new: Entry) -> str:
    """How two entries of a stage differ, in a line; empty if they do not."""
    parts = []
    for name, was, now in (
        ("reference", old.reference, new.reference),
        ("platform", old.platform, new.platform),
    ):
        if was != now:
            parts.append(f"{name} {was} -> {now}")
    if old.digest != new.digest:
        parts.append(f"digest {short(old.digest)} -> {short(new.digest)}")
    elif old.image_id != new.image_id:
        parts.append(f"image id {short(old.image_id)} -> {short(new.image_id)}")
    parts += changes_of(old, new)
    parts += [
        f"service image {image} {short(old.services.get(image))} -> {short(new.services.get(image))}"
        for image in sorted(old.services.keys() | new.services.keys())
        if old.services.get(image) != new.services.get(image)
    ]
    if old.layers != new.layers:
        parts.append(layers_that_differ(old.layers, new.layers))
        if old.manifest is not None and new.manifest is not None:
            parts.append("the same files" if old.manifest == new.manifest else "other files")
    return ", ".join(parts)


def layers_that_differ(old: Sequence[str], new: Sequence[str]) -> str:
    """``2 of 5 layers differ``: how many of the new layers the old image does not have at the same place."""
    same = 0
    for was, now in zip(old, new, strict=False):
        if was != now:
            break
        same += 1
    return f"{max(len(new), len(old)) - same} of {max(len(new), len(old))} layers differ"


def _sha(text: str) -> str:
    return text if text.startswith("sha256:") else f"sha256:{text}"


def _optional_sha(text: str | None) -> str | None:
    return None if text is None else _sha(text)


def short(text: str | None) -> str:
    """A digest or id for a line."""
    if text is None:
        return "none"
    kind = lockfile.LOCAL if text.startswith(lockfile.LOCAL) else ""
    return text[: len(kind) + len("sha256:") + 12]
