"""Which images share which layers: the picture's content, before anybody draws it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_envpar.ledger import ImageRecord, LayerRecord

Source = Literal["engine", "ledger"]


@dataclasses.dataclass(frozen=True)
class Pictured:
    """An image of the picture.

    Args:
        stages: The stages that it is the image of.
        references: What it was asked by.
        source: Whether an engine has it, or the ledger remembers it.
        made_from: The id of the image under the container that a checkpoint was taken from; ``None`` for others.
    """

    record: ImageRecord
    stages: tuple[str, ...]
    references: tuple[str, ...]
    source: Source
    made_from: str | None = None

    @property
    def name(self) -> str:
        """What it is called in a sentence: its stages, else its references."""
        return ", ".join(self.stages or self.references)


@dataclasses.dataclass(frozen=True)
class Segment:
    """Layers that the same images share, and what is on top of them.

    Args:
        layers: The lowest first; none of them for images without a layer.
        images: Those that end here.
        above: What the other images have on top.
        shared_by: How many images have these layers here.
    """

    layers: tuple[LayerRecord, ...]
    images: tuple[Pictured, ...]
    above: tuple[Segment, ...]
    shared_by: int


@dataclasses.dataclass(frozen=True)
class Pair:
    """What two images have in common.

    Args:
        layers: How many layers, by content; wherever they are in the two images.
        size_bytes: Of those whose size is known.
        unknown: How many have no known size.
    """

    left: Pictured
    right: Pictured
    layers: int
    size_bytes: int
    unknown: int


@dataclasses.dataclass(frozen=True)
class Sharing:
    """How much is shared.

    Args:
        pairs: Every pair, those that share most first.
        total_bytes: All layers of all images, as if nothing were shared.
        distinct_bytes: Every layer once.
        unknown: How many distinct layers have no known size, and so are in neither sum.
    """

    pairs: tuple[Pair, ...]
    total_bytes: int
    distinct_bytes: int
    unknown: int

    @property
    def shared_bytes(self) -> int:
        """What sharing saves."""
        return self.total_bytes - self.distinct_bytes


def merged(images: Iterable[Pictured]) -> tuple[Pictured, ...]:
    """The images, each of them once with all the names it was asked by."""
    found: dict[str, Pictured] = {}
    for image in images:
        known = found.get(image.record.id)
        if known is not None:
            image = dataclasses.replace(  # noqa: PLW2901 - the same image, asked for twice
                known,
                stages=tuple(dict.fromkeys((*known.stages, *image.stages))),
                references=tuple(dict.fromkeys((*known.references, *image.references))),
            )
        found[image.record.id] = image
    return tuple(found.values())


def segments(images: Sequence[Pictured]) -> tuple[Segment, ...]:
    """The images as trees, from the lowest layers up: what is shared from the bottom on is there once."""
    bare = tuple(image for image in images if not image.record.layers)
    found = [Segment((), bare, (), len(bare))] if bare else []
    return (*found, *_above([image for image in images if image.record.layers], 0))


def _above(images: Sequence[Pictured], depth: int) -> tuple[Segment, ...]:
    groups: dict[str, list[Pictured]] = {}
    for image in images:
        groups.setdefault(image.record.layers[depth].diff_id, []).append(image)
    return tuple(_segment(group, depth) for group in groups.values())


def _segment(images: Sequence[Pictured], depth: int) -> Segment:
    end = depth + 1
    while all(len(image.record.layers) > end for image in images):
        if len({image.record.layers[end].diff_id for image in images}) > 1:
            break
        end += 1
    ending = tuple(image for image in images if len(image.record.layers) == end)
    going = [image for image in images if len(image.record.layers) > end]
    return Segment(images[0].record.layers[depth:end], ending, _above(going, end), len(images))


def sharing(images: Sequence[Pictured]) -> Sharing:
    """How much the images share, pair by pair and in all. A layer that an image has twice counts once."""
    layers = [{layer.diff_id: layer.size_bytes for layer in image.record.layers} for image in images]
    pairs = []
    for left, right in itertools.combinations(range(len(images)), 2):
        sizes = [layers[left][diff_id] for diff_id in layers[left] if diff_id in layers[right]]
        known = [size for size in sizes if size is not None]
        pairs.append(Pair(images[left], images[right], len(sizes), sum(known), len(sizes) - len(known)))
    distinct: dict[str, int | None] = {}
    for each in layers:
        distinct |= each
    return Sharing(
        pairs=tuple(sorted(pairs, key=lambda pair: (-pair.size_bytes, -pair.layers))),
        total_bytes=sum(size or 0 for each in layers for size in each.values()),
        distinct_bytes=sum(size or 0 for size in distinct.values()),
        unknown=sum(size is None for size in distinct.values()),
    )
